import { join } from 'node:path';
import type { ModelConfig, SpkvConfig } from '../checkpoint/config.js';
import { Fields } from '../checkpoint/fields.js';
import { fileError } from '../files.js';
import { readOptionalJson } from '../json.js';
import { ONNX_DTYPES, type OnnxDtype } from './weights.js';

export const MANIFEST = 'spkv-onnx.json';
const VERSION = 1;

/** What runs an exported model must know of it: spkv-onnx.json. */
export interface OnnxManifest {
  version: typeof VERSION;
  /** How the matrices are stored; 'mixed' in a graph that was adapted. */
  dtype: OnnxDtype | 'mixed';
  /** File of the weights that all graphs share. */
  weights: string;
  /** File of the graph with the operator ai.spkv::SelfPrunedAttention; absent where that form was not written. */
  graph?: string;
  /** Files of the layers + 1 graphs split at the attention; absent where that form was not written. */
  parts?: string[];
  model: Pick<ModelConfig, 'layers' | 'heads' | 'kvHeads' | 'headDim' | 'hiddenSize' | 'vocabSize' | 'maxPositions' | 'eosTokenIds'> & { bosTokenId?: number };
  /** Absent in a dense model: then there are no utilities. */
  spkv?: Pick<SpkvConfig, 'window' | 'threshold'>;
}

const FILE_NAME = /^[^/\\:\0]+$/;

/** Reads the manifest of an exported directory. Errors: FILE (missing or malformed), UNSUPPORTED (a later version). */
export async function readManifest(dir: string): Promise<OnnxManifest> {
  const path = join(dir, MANIFEST);
  const json = await readOptionalJson(path);
  if (json === undefined) throw fileError(path, 'expected a file, as spkv export-onnx writes it, found nothing');
  const fields = new Fields(json, path);
  if (fields.integer('version', 1, Number.MAX_SAFE_INTEGER) !== VERSION) throw fields.unsupported('version', String(VERSION));
  const dtype = fields.string('dtype');
  const known = [...ONNX_DTYPES, 'mixed'] as const;
  if (!known.includes(dtype as OnnxDtype)) throw fields.wrong('dtype', `one of ${known.join(', ')}`);
  const model = readModel(fields);
  const spkv = fields.child('spkv');
  const parts = readParts(fields, model.layers);
  if (!fields.has('graph') && !parts) throw fields.wrong('graph', 'a file name, where there are no "parts"');
  return {
    version: VERSION,
    dtype: dtype as OnnxDtype,
    weights: fileName(fields, 'weights'),
    ...(fields.has('graph') && { graph: fileName(fields, 'graph') }),
    ...(parts && { parts }),
    model,
    ...(spkv && { spkv: { window: spkv.integer('window', 1, 2 ** 20), threshold: spkv.number('threshold', { min: 0, max: 1 }) } }),
  };
}

function readModel(fields: Fields): OnnxManifest['model'] {
  const model = fields.child('model');
  if (!model) throw fields.wrong('model', 'an object');
  const size = (name: string) => model.integer(name, 1, 2 ** 31 - 1);
  const vocabSize = size('vocabSize');
  const bosTokenId = model.tokenIds('bosTokenId', vocabSize)[0];
  const heads = size('heads');
  const kvHeads = size('kvHeads');
  if (heads % kvHeads !== 0) throw model.wrong('kvHeads', `a divisor of "model.heads" (${heads})`);
  return {
    layers: size('layers'), heads, kvHeads, headDim: size('headDim'), hiddenSize: size('hiddenSize'), vocabSize, maxPositions: size('maxPositions'),
    ...(bosTokenId !== undefined && { bosTokenId }),
    eosTokenIds: model.tokenIds('eosTokenIds', vocabSize),
  };
}

function readParts(fields: Fields, layers: number): string[] | undefined {
  if (!fields.has('parts')) return undefined;
  const parts = fields.value('parts');
  const ok = Array.isArray(parts) && parts.length === layers + 1 && parts.every((name) => typeof name === 'string' && FILE_NAME.test(name));
  if (!ok) throw fields.wrong('parts', `an array of ${layers + 1} file names`);
  return parts as string[];
}

function fileName(fields: Fields, name: string): string {
  if (!FILE_NAME.test(fields.string(name))) throw fields.wrong(name, `the name of a file beside ${MANIFEST}`);
  return fields.string(name);
}
