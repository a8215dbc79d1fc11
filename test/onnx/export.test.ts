import { join } from 'node:path';
import type { Family } from '../../lib/checkpoint/config.js';
import { loadModel } from '../../lib/index.js';
import { exportOnnx, type ExportOptions } from '../../lib/onnx/index.js';
import { type Json, SPKV, tinyConfig, writeRandomCheckpoint } from '../support/checkpoints.js';
import { maxDifference, random } from '../support/device.js';
import { temporaryDirectory } from '../support/files.js';
import { golden, MODEL_DIR } from '../support/golden.js';
import { runOneGraph } from '../support/onnx-one-graph.js';
import { PartsModel } from '../support/onnx-parts.js';
import { closeOnnx } from '../support/onnx-session.js';

afterAll(closeOnnx);
const root = temporaryDirectory();

/** Logits after every token, read in chunks of `chunk` by onnxruntime and by the native model. */
async function bothLogits(dir: string, ids: number[], chunk: number, threshold: number): Promise<{ ours: Float32Array; native: Float32Array }> {
  const parts = await PartsModel.open(dir);
  const sequence = parts.sequence(threshold);
  const ours: Float32Array[] = [];
  for (let start = 0; start < ids.length; start += chunk) ours.push(await parts.step(sequence, ids.slice(start, start + chunk)));
  using model = await loadModel(source(dir), { device: 'cpu', cacheDtype: 'f32', kvMemory: 1 << 24 });
  const native = await model.stepAll(await model.createSequence({ threshold }), ids);
  return { ours: Float32Array.from(ours.flatMap((piece) => [...piece])), native };
}

const sources = new Map<string, string>();
const source = (out: string) => sources.get(out)!;

async function exported(dir: string, name: string, options?: ExportOptions): Promise<string> {
  const out = join(root, name);
  sources.set(out, dir);
  await exportOnnx(dir, out, options);
  return out;
}

// An exact f32 computation differs from the float64 reference by about 2e-4 at most; the logits reach 22.
const LOGITS = 1e-3;
const TOKENS = 320;

describe('the golden model in f32', () => {
  let parts: PartsModel;
  let data: Awaited<ReturnType<typeof golden>>;
  beforeAll(async () => {
    parts = await PartsModel.open(await exported(MODEL_DIR, 'golden'));
    data = await golden();
  });
  const ids = () => Array.from(data.ints('input_ids').subarray(0, TOKENS));

  test.each([[320, 'hard', 0.5], [129, 'hard', 0.5], [320, 'dense', 0]] as const)('in chunks of %i its %s logits are the reference\'s', async (chunk, mode, threshold) => {
    const sequence = parts.sequence(threshold);
    for (let start = 0; start < TOKENS; start += chunk) {
      const logits = await parts.step(sequence, ids().slice(start, start + chunk));
      const expected = data.floats(`logits_${mode}`).subarray(start * 320, start * 320 + logits.length);
      expect(maxDifference(logits, expected)).toBeLessThan(LOGITS);
    }
  });

  test('as one graph it is the same, its operators told apart', async () => {
    const { logits, utilities, attributes } = await runOneGraph(parts.dir, ids(), [...ids().keys()]);
    expect(maxDifference(logits, data.floats('logits_dense').subarray(0, logits.length))).toBeLessThan(LOGITS);
    expect(attributes).toEqual(Array.from({ length: 8 }, (_, layer) => ({ layer, layers: 8, num_heads: 4, kv_num_heads: 2, head_dim: 64, scale: 1 / 8, window: 128 })));
    // The reference computes them from hidden states of the pruned model; the first layer's are the same.
    const expected = data.floats('utilities');
    const ours = [0, 1].flatMap((head) => Array.from({ length: TOKENS }, (_, token) => utilities[0]![2 * token + head]!));
    expect(maxDifference(ours, [...expected.subarray(0, TOKENS), ...expected.subarray(640, 640 + TOKENS)])).toBeLessThan(1e-4);
    expect((await runOneGraph(parts.dir, ids(), [])).logits).toHaveLength(0);
  });

  test('any rows of the logits can be asked for, and none', async () => {
    const all = await parts.step(parts.sequence(), ids().slice(0, 20));
    const some = await parts.step(parts.sequence(), ids().slice(0, 20), [19, 0]);
    const rows = [19, 0].map((row) => all.subarray(row * 320, (row + 1) * 320));
    expect(maxDifference(some, Float32Array.from(rows.flatMap((row) => [...row])))).toBeLessThan(LOGITS);
    expect(await parts.step(parts.sequence(), ids().slice(0, 20), [])).toHaveLength(0);
  });
});

const FAMILIES: [name: string, family: Family, changes: Json][] = [
  ['Llama', 'llama', { spkv: SPKV }],
  ['Llama with biases and tied embeddings', 'llama', { spkv: SPKV, tie_word_embeddings: true, attention_bias: true, mlp_bias: true }],
  ['Llama 3.1 with scaled RoPE', 'llama', {
    rope_theta: 500000,
    rope_scaling: { rope_type: 'llama3', factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 32 },
  }],
  ['Llama with linearly scaled RoPE', 'llama', { rope_scaling: { rope_type: 'linear', factor: 4 } }],
  ['Mistral', 'mistral', { spkv: SPKV }],
  ['Qwen2 with biases', 'qwen2', { head_dim: 8, num_attention_heads: 2, num_key_value_heads: 1, spkv: SPKV }],
  ['Qwen3 with q/k norm', 'qwen3', { tie_word_embeddings: true, spkv: SPKV }],
  ['Qwen3 with one layer, dense', 'qwen3', { num_hidden_layers: 1 }],
];

test.each(FAMILIES)('%s agrees with the native model', async (name, family, changes) => {
  const { dir } = await writeRandomCheckpoint(join(root, `${name} checkpoint`), tinyConfig(family, changes));
  const out = await exported(dir, name);
  const uniform = random(7);
  const ids = Array.from({ length: 90 }, () => Math.floor(uniform() * 48));
  const { ours, native } = await bothLogits(out, ids, 37, 0.5);
  const largest = native.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  expect(maxDifference(ours, native)).toBeLessThan(2e-6 * largest * 64); // a few dozen f32 roundings of the largest value
});
