import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { LIMITS, parseConfig } from '../../lib/checkpoint/config.js';
import { parseJsonObject } from '../../lib/json.js';
import { SPKV, tinyConfig, type Json } from '../support/checkpoints.js';
import { expectError, survives } from '../support/errors.js';
import { damage } from '../support/files.js';
import { MODEL_DIR } from '../support/golden.js';

const parse = (json: Json) => parseConfig(json, 'config.json');

/** `json` without one of its fields. */
function without(json: Json, field: string): Json {
  const { [field]: _, ...rest } = json;
  return rest;
}

const refused = (changes: Json, ...parts: (string | RegExp)[]) => expectError(() => parse(tinyConfig('llama', changes)), 'UNSUPPORTED', 'config.json', ...parts);
const malformed = (changes: Json, ...parts: (string | RegExp)[]) => expectError(() => parse(tinyConfig('llama', changes)), 'FILE', 'config.json', ...parts);

test('reads the golden model', () => {
  const path = join(MODEL_DIR, 'config.json');
  expect(parseConfig(JSON.parse(readFileSync(path, 'utf8')), path)).toEqual({
    family: 'llama',
    vocabSize: 320,
    hiddenSize: 256,
    intermediateSize: 704,
    layers: 8,
    heads: 4,
    kvHeads: 2,
    headDim: 64,
    rmsNormEps: 1e-5,
    ropeTheta: 10000,
    ropeScaling: { type: 'default' },
    maxPositions: 4096,
    tieWordEmbeddings: true,
    attentionBias: { qkv: false, out: false },
    mlpBias: false,
    qkNorm: false,
    bosTokenId: 0,
    eosTokenIds: [0],
    dtype: 'BF16',
    spkv: { window: 128, threshold: 0.5, predictorHiddenSize: 64, predictorActivation: 'silu' },
  });
});

describe('families', () => {
  test('differ in biases and q/k norm', () => {
    expect(parse(tinyConfig('llama'))).toMatchObject({ attentionBias: { qkv: false, out: false }, mlpBias: false, qkNorm: false });
    expect(parse(tinyConfig('llama', { attention_bias: true, mlp_bias: true }))).toMatchObject({ attentionBias: { qkv: true, out: true }, mlpBias: true });
    expect(parse(tinyConfig('mistral'))).toMatchObject({ family: 'mistral', attentionBias: { qkv: false, out: false }, qkNorm: false });
    expect(parse(tinyConfig('qwen2'))).toMatchObject({ family: 'qwen2', attentionBias: { qkv: true, out: false }, qkNorm: false });
    expect(parse(tinyConfig('qwen3'))).toMatchObject({ family: 'qwen3', attentionBias: { qkv: false, out: false }, qkNorm: true, headDim: 8 });
    expect(parse(tinyConfig('qwen3', { attention_bias: true }))).toMatchObject({ attentionBias: { qkv: true, out: true } });
  });

  test('are known by architectures where model_type is missing', async () => {
    expect(parse(without(tinyConfig('qwen3'), 'model_type')).family).toBe('qwen3');
    await malformed({ model_type: 'llama', architectures: ['Qwen2ForCausalLM'] }, '"qwen2", as "architectures" says');
    await malformed({ architectures: 'LlamaForCausalLM' }, '"architectures"');
    await expectError(() => parse(without(without(tinyConfig(), 'model_type'), 'architectures')), 'FILE', '"model_type"', 'found nothing');
  });

  test('that are not known are refused with those that are', async () => {
    await refused({ model_type: 'gemma2', architectures: null }, '"model_type" is "gemma2"', '"llama", "mistral", "qwen2", "qwen3"');
    await refused({ model_type: null, architectures: ['MambaForCausalLM'] }, '"architectures"', 'LlamaForCausalLM');
    await refused({ model_type: 'constructor' }, '"model_type" is "constructor"');
    await malformed({ model_type: 7 }, '"model_type", found 7');
  });

  test('mlp_bias and attention_bias are refused where the family has none', async () => {
    await expectError(() => parse(tinyConfig('mistral', { attention_bias: true })), 'UNSUPPORTED', '"attention_bias" is true');
    await expectError(() => parse(tinyConfig('qwen2', { mlp_bias: true })), 'UNSUPPORTED', '"mlp_bias" is true');
  });
});

test('missing fields take the values that transformers gives them', () => {
  const bare = ['num_key_value_heads', 'head_dim', 'hidden_act', 'rope_theta', 'tie_word_embeddings', 'torch_dtype', 'bos_token_id', 'eos_token_id'];
  const config = parse(bare.reduce(without, tinyConfig()));
  expect(config).toMatchObject({ kvHeads: 4, headDim: 4, ropeTheta: 10000, tieWordEmbeddings: false, eosTokenIds: [] });
  expect(config.bosTokenId).toBeUndefined();
  expect(config.dtype).toBeUndefined();
  expect(config.spkv).toBeUndefined();
  expect(parse(tinyConfig('llama', { num_key_value_heads: null, head_dim: null }))).toMatchObject({ kvHeads: 4, headDim: 4 });
});

test.each(['vocab_size', 'hidden_size', 'intermediate_size', 'num_hidden_layers', 'num_attention_heads', 'rms_norm_eps', 'max_position_embeddings'])(
  'a missing or malformed %s is named',
  async (field) => {
    await expectError(() => parse(without(tinyConfig(), field)), 'FILE', `config.json: expected`, `"${field}", found nothing`);
    await malformed({ [field]: 'many' }, `"${field}", found "many"`);
    await malformed({ [field]: 0 }, `"${field}", found 0`);
    await malformed({ [field]: -1 }, `"${field}", found -1`);
    await malformed({ [field]: [3] }, `"${field}", found [3]`);
  },
);

test.each(['vocab_size', 'hidden_size', 'intermediate_size', 'num_hidden_layers', 'num_attention_heads', 'max_position_embeddings'])(
  'an absurd %s is refused, a fraction is malformed',
  async (field) => {
    await refused({ [field]: 2 ** 40 }, `"${field}" is ${2 ** 40}, supported is at most`);
    await malformed({ [field]: 16.5 }, `"${field}", found 16.5`);
  },
);

test.each(['tie_word_embeddings', 'attention_bias', 'mlp_bias'])('%s must be a boolean', async (field) => {
  await malformed({ [field]: 'yes' }, `true or false for "${field}", found "yes"`);
});

describe('heads', () => {
  test('must divide', async () => {
    await malformed({ num_key_value_heads: 3 }, 'a divisor of "num_attention_heads" (4)', 'found 3');
    await malformed({ num_key_value_heads: 8 }, 'a divisor of "num_attention_heads" (4)');
    await malformed({ head_dim: null, hidden_size: 18 }, '"head_dim"', '"hidden_size" (18)');
  });

  test('have limits', async () => {
    await refused({ head_dim: 5 }, '"head_dim" is 5', 'an even number of at most 256');
    await refused({ head_dim: 258 }, '"head_dim" is 258');
    await refused({ head_dim: null, hidden_size: 12 }, '"head_dim" is 3');
    await refused({ num_attention_heads: 128, num_key_value_heads: 1 }, '"num_key_value_heads"', `at most ${LIMITS.groupSize} query heads`, '128');
    expect(parse(tinyConfig('llama', { head_dim: 256 })).headDim).toBe(256);
  });
});

describe('rope', () => {
  const llama3 = { factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192 };
  const parsed = { type: 'llama3', factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositionEmbeddings: 8192 };

  test.each([
    ['none', { rope_theta: 5e5, rope_scaling: null }, 5e5, { type: 'default' }],
    ['linear', { rope_scaling: { type: 'linear', factor: 2 } }, 1e4, { type: 'linear', factor: 2 }],
    ['llama3', { rope_theta: 5e5, rope_scaling: { rope_type: 'llama3', ...llama3 } }, 5e5, parsed],
    ['version 5, default', { rope_theta: null, rope_parameters: { rope_type: 'default', rope_theta: 1e6 } }, 1e6, { type: 'default' }],
    ['version 5, theta alone', { rope_theta: null, rope_parameters: { rope_theta: 1e6 } }, 1e6, { type: 'default' }],
    ['version 5, llama3', { rope_theta: null, rope_parameters: { rope_type: 'llama3', rope_theta: 5e5, ...llama3 } }, 5e5, parsed],
  ])('reads the form: %s', (_, changes, ropeTheta, ropeScaling) => {
    expect(parse(tinyConfig('llama', changes))).toMatchObject({ ropeTheta, ropeScaling });
  });

  test.each(['yarn', 'dynamic', 'longrope', 'su', 'mrope'])('refuses %s and lists what is supported', async (type) => {
    await refused({ rope_scaling: { rope_type: type, factor: 2 } }, `"rope_scaling.rope_type" is "${type}"`, '"default", "linear" or "llama3"');
    await refused({ rope_scaling: { type, factor: 2 } }, `"rope_scaling.type" is "${type}"`);
    await refused({ rope_parameters: { rope_type: type } }, `"rope_parameters.rope_type" is "${type}"`);
  });

  test('refuses malformed values, naming them', async () => {
    await malformed({ rope_theta: 0 }, '"rope_theta", found 0');
    await malformed({ rope_scaling: 'linear' }, '"rope_scaling", found "linear"');
    await malformed({ rope_scaling: { factor: 2 } }, '"rope_scaling"', '"rope_type"');
    await malformed({ rope_scaling: { type: 'linear' } }, '"rope_scaling.factor", found nothing');
    await malformed({ rope_scaling: { type: 'linear', factor: -2 } }, '"rope_scaling.factor", found -2');
    for (const field of Object.keys(llama3)) {
      await malformed({ rope_scaling: { ...llama3, rope_type: 'llama3', [field]: null } }, `"rope_scaling.${field}", found nothing`);
    }
    await malformed({ rope_scaling: { ...llama3, rope_type: 'llama3', high_freq_factor: 1 } }, '"rope_scaling.high_freq_factor"', 'above');
  });

  test('refuses the rotation of a part of the head', async () => {
    await refused({ partial_rotary_factor: 0.5 }, '"partial_rotary_factor" is 0.5');
    await refused({ rope_parameters: { rope_theta: 1e4, partial_rotary_factor: 0.25 } }, '"rope_parameters.partial_rotary_factor" is 0.25');
    expect(parse(tinyConfig('llama', { partial_rotary_factor: 1 })).headDim).toBe(4);
  });
});

describe('a sliding window', () => {
  test('in force is refused', async () => {
    const mistral = (changes: Json) => () => parse(tinyConfig('mistral', changes));
    await expectError(mistral({ sliding_window: 128 }), 'UNSUPPORTED', '"sliding_window" is 128', '"max_position_embeddings" (256)');
    await expectError(() => parse(without(tinyConfig('mistral', { max_position_embeddings: 8192 }), 'sliding_window')), 'UNSUPPORTED', '4096');
    await refused({ sliding_window: 128 }, '"sliding_window" is 128');
    for (const family of ['qwen2', 'qwen3'] as const) {
      await expectError(() => parse(tinyConfig(family, { use_sliding_window: true })), 'UNSUPPORTED', '"use_sliding_window" is true');
      await expectError(() => parse(tinyConfig(family, { layer_types: ['full_attention', 'sliding_attention'] })), 'UNSUPPORTED', '"layer_types"', 'sliding_attention');
    }
  });

  test('out of force is accepted', () => {
    parse(tinyConfig('mistral', { sliding_window: 256 }));
    parse(tinyConfig('mistral', { sliding_window: null, max_position_embeddings: 32768 }));
    parse(tinyConfig('qwen2', { use_sliding_window: false, sliding_window: 16, layer_types: ['full_attention', 'full_attention'] }));
  });
});

test('refuses what changes the result and is not honoured', async () => {
  await refused({ hidden_act: 'gelu' }, '"hidden_act" is "gelu"', '"silu"');
  await refused({ quantization_config: { quant_method: 'awq' } }, '"quantization_config"', 'not quantised');
  await refused({ torch_dtype: 'int8' }, '"torch_dtype" is "int8"', 'bfloat16');
});

test('reads the element type by either name', () => {
  expect(parse(tinyConfig('llama', { torch_dtype: 'float16' })).dtype).toBe('F16');
  expect(parse(tinyConfig('llama', { torch_dtype: null, dtype: 'float32' })).dtype).toBe('F32');
});

test('reads token ids as a number or a list', async () => {
  expect(parse(tinyConfig('llama', { eos_token_id: [2, 5, 2] })).eosTokenIds).toEqual([2, 5]);
  expect(parse(tinyConfig('llama', { bos_token_id: null, eos_token_id: null }))).toMatchObject({ bosTokenId: undefined, eosTokenIds: [] });
  for (const ids of [48, -1, 1.5, 'x', [3, 48]]) await malformed({ eos_token_id: ids }, 'token ids from 0 to 47', '"eos_token_id"');
});

describe('spkv', () => {
  const spkv = (changes: Json) => ({ spkv: { ...SPKV, ...changes } });

  test('is read', () => {
    expect(parse(tinyConfig('qwen3', { spkv: SPKV })).spkv).toEqual({ window: 16, threshold: 0.5, predictorHiddenSize: 8, predictorActivation: 'silu' });
  });

  test.each(Object.keys(SPKV))('needs %s', async (field) => {
    await malformed(spkv({ [field]: null }), `"spkv.${field}", found nothing`);
  });

  test('is checked', async () => {
    await malformed({ spkv: true }, '"spkv", found true');
    await malformed(spkv({ window: 0 }), '"spkv.window", found 0');
    await malformed(spkv({ threshold: 1.5 }), '"spkv.threshold", found 1.5');
    await malformed(spkv({ predictor_hidden_size: 2.5 }), '"spkv.predictor_hidden_size", found 2.5');
    await refused(spkv({ window: 2 ** 30 }), '"spkv.window"');
    await refused(spkv({ predictor_activation: 'relu' }), '"spkv.predictor_activation" is "relu"', '"silu"');
  });
});

test('refuses what is not an object', async () => {
  for (const value of [null, [], 'x', 4]) await expectError(() => parseConfig(value, 'config.json'), 'FILE', 'config.json: expected a JSON object');
});

test('a damaged config gives a valid result or a file error', () => {
  const full = tinyConfig('llama', { spkv: SPKV, rope_scaling: { rope_type: 'linear', factor: 2 }, layer_types: ['full_attention'] });
  const original = Buffer.from(JSON.stringify(full));
  return fc.assert(
    fc.asyncProperty(damage(original.length), (change) => survives(() => parse(parseJsonObject(change(original).toString(), 'config.json')))),
    { numRuns: 2000 },
  );
});

test('any JSON in any field gives a valid result or a file error', () => {
  const full = tinyConfig('qwen2', { spkv: SPKV, rope_parameters: { rope_type: 'llama3' }, dtype: 'float32', quantization_config: null, layer_types: [], architectures: [] });
  return fc.assert(
    fc.asyncProperty(fc.constantFrom(...Object.keys(full)), fc.jsonValue({ maxDepth: 2 }), (field, value) => survives(() => parse({ ...full, [field]: value }))),
    { numRuns: 1000 },
  );
});
