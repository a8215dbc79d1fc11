import { SpkvError } from '../errors.js';
import { isObject, show, type JsonObject } from '../json.js';
import { fileError } from '../files.js';
import type { FileDtype } from './dtype.js';
import { Fields } from './fields.js';
import { parseRope, type RopeScaling } from './rope-config.js';

export type { RopeScaling } from './rope-config.js';

export type Family = 'llama' | 'mistral' | 'qwen2' | 'qwen3';

/** The self-pruning part of a config: its "spkv" object. */
export interface SpkvConfig {
  /** Tokens that every query sees whatever their utility, the token itself included. */
  readonly window: number;
  /** Utility from which a pair is kept; the default of a sequence. */
  readonly threshold: number;
  /** Width of the predictor's hidden layer. */
  readonly predictorHiddenSize: number;
  readonly predictorActivation: 'silu';
}

/** The architecture of a model, as its config.json gives it. Sizes are counts of elements. */
export interface ModelConfig {
  readonly family: Family;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly layers: number;
  /** Query heads. */
  readonly heads: number;
  /** Key/value heads; each serves heads / kvHeads query heads. */
  readonly kvHeads: number;
  readonly headDim: number;
  readonly rmsNormEps: number;
  readonly ropeTheta: number;
  readonly ropeScaling: RopeScaling;
  readonly maxPositions: number;
  /** The output projection is the embedding table. */
  readonly tieWordEmbeddings: boolean;
  /** Which projections of attention have a bias: q, k and v together, and the output. */
  readonly attentionBias: { readonly qkv: boolean; readonly out: boolean };
  readonly mlpBias: boolean;
  /** q and k are RMS-normalised per head before RoPE. */
  readonly qkNorm: boolean;
  readonly bosTokenId: number | undefined;
  readonly eosTokenIds: readonly number[];
  /** Element type that the config names for the weights; the files have the last word. */
  readonly dtype: FileDtype | undefined;
  /** Undefined for a dense model. */
  readonly spkv: SpkvConfig | undefined;
}

const FAMILIES: readonly Family[] = ['llama', 'mistral', 'qwen2', 'qwen3'];

const ARCHITECTURES: Readonly<Record<string, Family>> = {
  LlamaForCausalLM: 'llama',
  MistralForCausalLM: 'mistral',
  Qwen2ForCausalLM: 'qwen2',
  Qwen3ForCausalLM: 'qwen3',
};

const DTYPES: Readonly<Record<string, FileDtype>> = { bfloat16: 'BF16', float16: 'F16', float32: 'F32', float64: 'F64' };

const MISTRAL_DEFAULT_WINDOW = 4096;

/** Largest sizes that are accepted: beyond them a file is taken for damaged, or the kernels do not reach. */
export const LIMITS = {
  vocabSize: 2 ** 24,
  hiddenSize: 2 ** 17,
  intermediateSize: 2 ** 20,
  layers: 1024,
  heads: 1024,
  groupSize: 64,
  headDim: 256,
  positions: 2 ** 31 - 1,
  window: 2 ** 20,
} as const;

/**
 * Reads the parsed config.json of a Hugging Face checkpoint; `path` is for messages.
 * Errors: 'FILE' (a field missing or malformed), 'UNSUPPORTED' (a field asks for something that is not honoured);
 * both name the field.
 */
export function parseConfig(json: unknown, path: string): ModelConfig {
  if (!isObject(json)) throw fileError(path, `expected a JSON object, found ${show(json)}`);
  const fields = new Fields(json, path);
  const family = parseFamily(fields);
  const maxPositions = fields.integer('max_position_embeddings', 1, LIMITS.positions);
  refuseUnsupported(fields, family, maxPositions);
  const vocabSize = fields.integer('vocab_size', 1, LIMITS.vocabSize);
  const bias = family === 'llama' || family === 'qwen3' ? fields.boolean('attention_bias', false) : false;
  return {
    family,
    vocabSize,
    hiddenSize: fields.integer('hidden_size', 1, LIMITS.hiddenSize),
    intermediateSize: fields.integer('intermediate_size', 1, LIMITS.intermediateSize),
    layers: fields.integer('num_hidden_layers', 1, LIMITS.layers),
    ...parseHeads(fields),
    rmsNormEps: fields.number('rms_norm_eps', { above: 0, max: 1 }),
    ...parseRope(fields),
    maxPositions,
    tieWordEmbeddings: fields.boolean('tie_word_embeddings', false),
    attentionBias: { qkv: bias || family === 'qwen2', out: bias },
    mlpBias: family === 'llama' && fields.boolean('mlp_bias', false),
    qkNorm: family === 'qwen3',
    bosTokenId: fields.tokenIds('bos_token_id', vocabSize)[0],
    eosTokenIds: fields.tokenIds('eos_token_id', vocabSize),
    dtype: parseDtype(fields),
    spkv: parseSpkv(fields.child('spkv')),
  };
}

/** The token ids of a generation_config.json, which go before those of config.json. Errors: 'FILE'. */
export function withGenerationConfig(config: ModelConfig, json: JsonObject, path: string): ModelConfig {
  const fields = new Fields(json, path);
  return {
    ...config,
    bosTokenId: fields.tokenIds('bos_token_id', config.vocabSize)[0] ?? config.bosTokenId,
    eosTokenIds: fields.has('eos_token_id') ? fields.tokenIds('eos_token_id', config.vocabSize) : config.eosTokenIds,
  };
}

function parseFamily(fields: Fields): Family {
  const architectures = fields.value('architectures') ?? [];
  if (!Array.isArray(architectures) || architectures.some((item) => typeof item !== 'string')) {
    throw fields.wrong('architectures', 'an array of strings');
  }
  const known = (architectures as string[]).find((name) => Object.hasOwn(ARCHITECTURES, name));
  const byArchitecture = known === undefined ? undefined : ARCHITECTURES[known];
  const supported = FAMILIES.map((name) => `"${name}"`).join(', ');
  if (!fields.has('model_type')) {
    if (byArchitecture) return byArchitecture;
    if (architectures.length > 0) throw fields.unsupported('architectures', Object.keys(ARCHITECTURES).join(', '));
    throw fields.wrong('model_type', `one of ${supported}`);
  }
  const type = fields.string('model_type');
  const family = FAMILIES.find((name) => name === type);
  if (!family) throw fields.unsupported('model_type', supported);
  if (byArchitecture && byArchitecture !== family) throw fields.wrong('model_type', `"${byArchitecture}", as "architectures" says`);
  return family;
}

function parseHeads(fields: Fields): { heads: number; kvHeads: number; headDim: number } {
  const heads = fields.integer('num_attention_heads', 1, LIMITS.heads);
  const kvHeads = fields.integer('num_key_value_heads', 1, LIMITS.heads, heads);
  if (heads % kvHeads !== 0) throw fields.wrong('num_key_value_heads', `a divisor of "num_attention_heads" (${heads})`);
  if (heads / kvHeads > LIMITS.groupSize) {
    throw fields.unsupported('num_key_value_heads', `at most ${LIMITS.groupSize} query heads for each, here ${heads / kvHeads}`);
  }
  const hiddenSize = fields.integer('hidden_size', 1, LIMITS.hiddenSize);
  if (!fields.has('head_dim') && hiddenSize % heads !== 0) {
    throw fields.wrong('head_dim', `a value, since "hidden_size" (${hiddenSize}) is no multiple of "num_attention_heads" (${heads})`);
  }
  const headDim = fields.integer('head_dim', 1, Infinity, hiddenSize / heads);
  if (headDim > LIMITS.headDim || headDim % 2 !== 0) {
    throw new SpkvError('UNSUPPORTED', `${fields.path}: "head_dim" is ${headDim}, supported is an even number of at most ${LIMITS.headDim}`);
  }
  return { heads, kvHeads, headDim };
}

function parseDtype(fields: Fields): FileDtype | undefined {
  const name = fields.has('dtype') ? 'dtype' : 'torch_dtype'; // transformers 5 writes dtype
  if (!fields.has(name)) return undefined;
  const value = fields.string(name);
  if (!Object.hasOwn(DTYPES, value)) throw fields.unsupported(name, Object.keys(DTYPES).join(', '));
  return DTYPES[value];
}

function parseSpkv(spkv: Fields | undefined): SpkvConfig | undefined {
  if (!spkv) return undefined;
  if (spkv.string('predictor_activation') !== 'silu') throw spkv.unsupported('predictor_activation', '"silu"');
  return {
    window: spkv.integer('window', 1, LIMITS.window),
    threshold: spkv.number('threshold', { min: 0, max: 1 }),
    predictorHiddenSize: spkv.integer('predictor_hidden_size', 1, LIMITS.hiddenSize),
    predictorActivation: 'silu',
  };
}

/** Refuses what would change the result and is not honoured, so that it is never silently left out. */
function refuseUnsupported(fields: Fields, family: Family, maxPositions: number): void {
  if (fields.has('hidden_act') && !['silu', 'swish'].includes(fields.string('hidden_act'))) {
    throw fields.unsupported('hidden_act', '"silu"');
  }
  if (fields.has('quantization_config')) throw fields.unsupported('quantization_config', 'weights that are not quantised');
  if (family !== 'llama' && fields.boolean('mlp_bias', false)) throw fields.unsupported('mlp_bias', `false for ${family}`);
  if (family === 'mistral' && fields.boolean('attention_bias', false)) throw fields.unsupported('attention_bias', `false for ${family}`);
  refuseSlidingWindow(fields, family, maxPositions);
}

function refuseSlidingWindow(fields: Fields, family: Family, maxPositions: number): void {
  const types = fields.value('layer_types') ?? [];
  if (!Array.isArray(types)) throw fields.wrong('layer_types', 'an array');
  const other = types.find((type) => type !== 'full_attention');
  if (other !== undefined) {
    throw new SpkvError('UNSUPPORTED', `${fields.path}: "layer_types" has ${show(other)}, supported is "full_attention" for every layer`);
  }
  if (family === 'qwen2' || family === 'qwen3') {
    // Their sliding_window means nothing unless this switch is on.
    if (fields.boolean('use_sliding_window', false)) throw fields.unsupported('use_sliding_window', 'false (full attention)');
    return;
  }
  if (!fields.has('sliding_window')) {
    // In transformers a Mistral config without the field means 4096, and null means none.
    if (family === 'mistral' && !fields.declares('sliding_window') && maxPositions > MISTRAL_DEFAULT_WINDOW) {
      throw fields.unsupported('sliding_window', `null, that is full attention; without the field Mistral has ${MISTRAL_DEFAULT_WINDOW}`);
    }
    return;
  }
  const window = fields.integer('sliding_window', 1, Infinity);
  if (window < maxPositions) {
    throw fields.unsupported('sliding_window', `null or at least "max_position_embeddings" (${maxPositions}), that is full attention`);
  }
}
