import { join } from 'node:path';
import type { Family } from '../../lib/checkpoint/config.js';
import { adaptOnnx } from '../../lib/onnx/index.js';
import { type Json, tinyConfig, writeRandomCheckpoint } from '../support/checkpoints.js';
import { maxDifference, random } from '../support/device.js';
import { temporaryDirectory } from '../support/files.js';
import { decoderLogits, type Style, writeDecoder } from '../support/onnx-decoders.js';
import { runOneGraph } from '../support/onnx-one-graph.js';
import { PartsModel } from '../support/onnx-parts.js';
import { closeOnnx } from '../support/onnx-session.js';

afterAll(closeOnnx);
const root = temporaryDirectory();
const T = 40;

const STYLES: [name: string, family: Family, style: Style, changes?: Json][] = [
  ['GroupQueryAttention', 'llama', { attention: 'gqa' }],
  ['a graph whose nodes have no names', 'llama', { attention: 'sdpa', unnamed: true }],
  ['GroupQueryAttention that rotates', 'llama', { attention: 'gqa', rotates: true }],
  ['GroupQueryAttention of packed inputs that rotates', 'qwen2', { attention: 'gqa', rotates: true, packed: true }],
  ['GroupQueryAttention with a scale of its own', 'llama', { attention: 'gqa', rotates: true, scale: 0.3 }],
  ['GroupQueryAttention with quantised weights', 'llama', { attention: 'gqa', rotates: true, quantised: true }],
  ['MultiHeadAttention', 'llama', { attention: 'mha' }, { num_key_value_heads: 4 }],
  ['scaled_dot_product_attention written out', 'llama', { attention: 'sdpa' }],
  ['tables that are cut to the length so far', 'llama', { attention: 'eager', tables: true }],
  ['scaled_dot_product_attention written out, with biases', 'qwen2', { attention: 'sdpa' }],
  ['scaled_dot_product_attention of onnxscript', 'llama', { attention: 'script' }],
  ['attention written out, with q/k norm', 'qwen3', { attention: 'eager', scale: 0.2 }],
  ['attention written out, without groups', 'llama', { attention: 'eager' }, { num_key_value_heads: 4 }],
  ['attention beside the MLP', 'llama', { attention: 'sdpa', parallel: true }],
  ['ai.onnx::Attention of heads', 'llama', { attention: 'attention' }],
  ['ai.onnx::Attention of rows', 'llama', { attention: 'attention-rows' }],
  ['GroupQueryAttention in f16', 'llama', { attention: 'gqa', rotates: true, half: true }],
  ['attention written out in f16', 'llama', { attention: 'sdpa', half: true }],
];

test.each(STYLES)('%s gives the logits of the model as it was', async (name, family, style, changes = {}) => {
  const config = tinyConfig(family, { head_dim: 16, ...changes });
  const { dir, tensors } = await writeRandomCheckpoint(join(root, name.replaceAll(/\W/g, '-')), config);
  const path = await writeDecoder(dir, config, tensors, style);
  const uniform = random(7);
  const ids = Array.from({ length: T }, () => Math.floor(uniform() * 48));
  const expected = await decoderLogits(path, config, style, ids);
  const out = join(root, `${name} adapted`);
  await adaptOnnx(path, out);
  const parts = await PartsModel.open(out);
  const sequence = parts.sequence();
  const ours = [await parts.step(sequence, ids.slice(0, 17)), await parts.step(sequence, ids.slice(17))];
  const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  // A few dozen roundings of the largest value, to f32 or to f16.
  const tolerance = (style.half ? 2 ** -11 * 24 : 2e-6 * 64) * largest;
  expect(maxDifference(Float32Array.from(ours.flatMap((piece) => [...piece])), expected)).toBeLessThan(tolerance);
  expect(maxDifference((await runOneGraph(out, ids)).logits, expected)).toBeLessThan(tolerance);
});
