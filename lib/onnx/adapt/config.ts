import { dirname, join } from 'node:path';
import { Fields } from '../../checkpoint/fields.js';
import { fileError, kindOf } from '../../files.js';
import { readOptionalJson } from '../../json.js';
import type { OnnxManifest } from '../manifest.js';

/** What the files beside an ONNX model say of it. */
export interface SourceConfig {
  model: OnnxManifest['model'];
  /** Of the "spkv" object of config.json, where there is one. */
  window: number | undefined;
  threshold: number | undefined;
  /** Directory with config.json and the tokenizer. */
  dir: string;
}

/**
 * Reads config.json, or the genai_config.json of onnxruntime-genai, beside the model or in the directory above it
 * (as transformers.js lays models out). Families that spkv itself does not run are fine. Errors: FILE, UNSUPPORTED.
 */
export async function readSourceConfig(path: string): Promise<SourceConfig> {
  const beside = dirname(path);
  for (const dir of [beside, join(beside, '..')]) {
    if ((await kindOf(join(dir, 'config.json'))) === 'file') return readConfig(dir);
    if ((await kindOf(join(dir, 'genai_config.json'))) === 'file') return readGenaiConfig(dir);
  }
  throw fileError(join(beside, 'config.json'), 'expected a file with the sizes of the model, found nothing, here and in the directory above');
}

async function readConfig(dir: string): Promise<SourceConfig> {
  const path = join(dir, 'config.json');
  const config = new Fields((await readOptionalJson(path))!, path);
  const generationPath = join(dir, 'generation_config.json');
  const generation = new Fields((await readOptionalJson(generationPath)) ?? {}, generationPath);
  const spkv = config.child('spkv');
  const maxPositions = size(config, 'max_position_embeddings');
  refuseWindows(config, maxPositions);
  return {
    dir,
    model: { ...sizes(config, 'head_dim'), maxPositions, vocabSize: size(config, 'vocab_size'), ...tokens([generation, config], size(config, 'vocab_size')) },
    window: spkv?.integer('window', 1, 2 ** 20),
    threshold: spkv?.number('threshold', { min: 0, max: 1 }),
  };
}

async function readGenaiConfig(dir: string): Promise<SourceConfig> {
  const path = join(dir, 'genai_config.json');
  const root = new Fields((await readOptionalJson(path))!, path);
  const model = root.child('model');
  const decoder = model?.child('decoder');
  if (!model || !decoder) throw root.wrong('model', 'an object with "decoder"');
  if (decoder.has('sliding_window')) throw decoder.unsupported('sliding_window', 'full attention');
  const vocabSize = size(model, 'vocab_size');
  return {
    dir,
    model: { ...sizes(decoder, 'head_size'), maxPositions: size(model, 'context_length'), vocabSize, ...tokens([model], vocabSize) },
    window: undefined,
    threshold: undefined,
  };
}

function size(fields: Fields, name: string, fallback?: number): number {
  return fields.integer(name, 1, 2 ** 31 - 1, fallback);
}

function sizes(fields: Fields, headName: string): Pick<OnnxManifest['model'], 'layers' | 'heads' | 'kvHeads' | 'headDim' | 'hiddenSize'> {
  const heads = size(fields, 'num_attention_heads');
  const kvHeads = size(fields, 'num_key_value_heads', heads);
  const hiddenSize = size(fields, 'hidden_size');
  if (heads % kvHeads !== 0) throw fields.wrong('num_key_value_heads', `a divisor of "num_attention_heads" (${heads})`);
  return { layers: size(fields, 'num_hidden_layers'), heads, kvHeads, hiddenSize, headDim: size(fields, headName, Math.floor(hiddenSize / heads)) };
}

function tokens(sources: readonly Fields[], vocabSize: number): Pick<OnnxManifest['model'], 'bosTokenId' | 'eosTokenIds'> {
  const ids = (name: string) => sources.find((fields) => fields.has(name))?.tokenIds(name, vocabSize) ?? [];
  const [bosTokenId] = ids('bos_token_id');
  return { ...(bosTokenId !== undefined && { bosTokenId }), eosTokenIds: ids('eos_token_id') };
}

/** The rewritten graph looks at everything that was kept: a model that was trained not to would say something else. */
function refuseWindows(config: Fields, maxPositions: number): void {
  const types = config.value('layer_types');
  if (Array.isArray(types) && types.some((type) => type !== 'full_attention')) throw config.unsupported('layer_types', 'full attention in every layer');
  const used = config.has('use_sliding_window') ? config.boolean('use_sliding_window', false) : true;
  if (used && config.has('sliding_window') && config.integer('sliding_window', 1, Infinity) < maxPositions) throw config.unsupported('sliding_window', 'full attention');
  if (config.has('alibi') && config.boolean('alibi', false)) throw config.unsupported('alibi', 'false');
}
