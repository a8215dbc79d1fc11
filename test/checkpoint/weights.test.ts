import { BUNDLED_MODEL } from '../../lib/bundled.js';
import { openCheckpoint } from '../../lib/checkpoint/checkpoint.js';
import { parseConfig } from '../../lib/checkpoint/config.js';
import { checkedWeightPlan, planTensors, weightPlan } from '../../lib/checkpoint/weights.js';
import { SPKV, tinyConfig, type Json } from '../support/checkpoints.js';
import { expectError } from '../support/errors.js';
import { MODEL_DIR } from '../support/golden.js';

const parse = (json: Json) => parseConfig(json, 'config.json');

/** What checkedWeightPlan reads of a checkpoint. */
const checkpoint = (config: Json, names: Iterable<string>) => ({ config: parse(config), tensors: new Set(names), listing: 'model.safetensors' });
const namesOf = (config: Json) => planTensors(weightPlan(parse(config))).map(({ name }) => name);

test.each([['golden', MODEL_DIR], ['bundled', BUNDLED_MODEL]])('covers every tensor of the %s model, with its shape', async (_, dir) => {
  const opened = await openCheckpoint(dir);
  const plan = checkedWeightPlan(opened);
  expect(plan.dense).toBe(false);
  expect(plan.lmHead).toBeUndefined();
  for (const { name, shape } of planTensors(plan)) opened.tensor(name, shape);
  expect(opened.unread()).toEqual([]);
});

test('the shapes of a layer', () => {
  const config = parse(tinyConfig('llama', { head_dim: 6, attention_bias: true, mlp_bias: true, spkv: SPKV }));
  const { layers, lmHead, embedTokens, finalNorm } = weightPlan(config);
  const at = 'model.layers.1.';
  expect(layers).toHaveLength(2);
  expect(layers[1]).toEqual({
    inputNorm: { name: `${at}input_layernorm.weight`, shape: [16] },
    qProj: { name: `${at}self_attn.q_proj.weight`, shape: [24, 16] },
    kProj: { name: `${at}self_attn.k_proj.weight`, shape: [12, 16] },
    vProj: { name: `${at}self_attn.v_proj.weight`, shape: [12, 16] },
    oProj: { name: `${at}self_attn.o_proj.weight`, shape: [16, 24] },
    qBias: { name: `${at}self_attn.q_proj.bias`, shape: [24] },
    kBias: { name: `${at}self_attn.k_proj.bias`, shape: [12] },
    vBias: { name: `${at}self_attn.v_proj.bias`, shape: [12] },
    oBias: { name: `${at}self_attn.o_proj.bias`, shape: [16] },
    postNorm: { name: `${at}post_attention_layernorm.weight`, shape: [16] },
    gateProj: { name: `${at}mlp.gate_proj.weight`, shape: [24, 16] },
    upProj: { name: `${at}mlp.up_proj.weight`, shape: [24, 16] },
    downProj: { name: `${at}mlp.down_proj.weight`, shape: [16, 24] },
    gateBias: { name: `${at}mlp.gate_proj.bias`, shape: [24] },
    upBias: { name: `${at}mlp.up_proj.bias`, shape: [24] },
    downBias: { name: `${at}mlp.down_proj.bias`, shape: [16] },
    predictor: {
      fc1Weight: { name: `${at}self_attn.utility_predictor.fc1.weight`, shape: [8, 16] },
      fc1Bias: { name: `${at}self_attn.utility_predictor.fc1.bias`, shape: [8] },
      fc2Weight: { name: `${at}self_attn.utility_predictor.fc2.weight`, shape: [2, 8] },
      fc2Bias: { name: `${at}self_attn.utility_predictor.fc2.bias`, shape: [2] },
    },
  });
  expect(embedTokens).toEqual({ name: 'model.embed_tokens.weight', shape: [48, 16] });
  expect(lmHead).toEqual({ name: 'lm_head.weight', shape: [48, 16] });
  expect(finalNorm).toEqual({ name: 'model.norm.weight', shape: [16] });
});

test('the families differ in optional tensors', () => {
  const optional = ['qBias', 'kBias', 'vBias', 'oBias', 'qNorm', 'kNorm', 'gateBias', 'upBias', 'downBias', 'predictor'];
  const present = (json: Json) => optional.filter((key) => key in weightPlan(parse(json)).layers[0]!);
  expect(present(tinyConfig('llama'))).toEqual([]);
  expect(present(tinyConfig('mistral'))).toEqual([]);
  expect(present(tinyConfig('qwen2'))).toEqual(['qBias', 'kBias', 'vBias']);
  expect(present(tinyConfig('qwen3'))).toEqual(['qNorm', 'kNorm']);
  expect(weightPlan(parse(tinyConfig('qwen3'))).layers[0]!.qNorm).toEqual({ name: 'model.layers.0.self_attn.q_norm.weight', shape: [8] });
  expect(namesOf(tinyConfig('qwen2', { tie_word_embeddings: true }))).not.toContain('lm_head.weight');
});

describe('predictors', () => {
  const dense = tinyConfig('qwen2');
  const pruned = tinyConfig('qwen2', { spkv: SPKV });
  const predictor = 'model.layers.1.self_attn.utility_predictor.fc2.bias';

  test('absent with no "spkv" object: a dense model', () => {
    const plan = checkedWeightPlan(checkpoint(dense, namesOf(dense)));
    expect(plan.dense).toBe(true);
    expect(plan.layers[0]!.predictor).toBeUndefined();
  });

  test('partly or wholly missing with an "spkv" object: an error', async () => {
    const some = namesOf(pruned).filter((name) => name !== predictor);
    await expectError(() => checkedWeightPlan(checkpoint(pruned, some)), 'FILE', 'model.safetensors', `tensor "${predictor}"`, 'found no such tensor');
    await expectError(() => checkedWeightPlan(checkpoint(pruned, namesOf(dense))), 'FILE', 'model.layers.0.self_attn.utility_predictor.fc1.weight');
  });

  test('present with no "spkv" object: an error', async () => {
    await expectError(() => checkedWeightPlan(checkpoint(dense, [...namesOf(dense), predictor])), 'FILE', `tensor "${predictor}"`, 'no "spkv" object');
  });
});
