import { mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { loadModel } from '../../lib/index.js';
import { adaptOnnx, type OnnxManifest } from '../../lib/onnx/index.js';
import { type Json, SPKV, tinyConfig, writeRandomCheckpoint } from '../support/checkpoints.js';
import { maxDifference, random } from '../support/device.js';
import { expectError } from '../support/errors.js';
import { temporaryDirectory } from '../support/files.js';
import { type Style, writeDecoder } from '../support/onnx-decoders.js';
import { runOneGraph } from '../support/onnx-one-graph.js';
import { PartsModel } from '../support/onnx-parts.js';
import { closeOnnx } from '../support/onnx-session.js';

afterAll(closeOnnx);
const root = temporaryDirectory();
const CONFIG = tinyConfig('llama', { head_dim: 16, spkv: SPKV });
const uniform = random(11);
const ids = Array.from({ length: 60 }, () => Math.floor(uniform() * 48));

async function decoder(name: string, style: Style, config: Json = CONFIG): Promise<{ dir: string; path: string }> {
  const { dir, tensors } = await writeRandomCheckpoint(join(root, name), config);
  return { dir, path: await writeDecoder(dir, config, tensors, style) };
}

test.each<[string, Style]>([
  ['GroupQueryAttention', { attention: 'gqa', rotates: true, packed: true }],
  ['attention written out', { attention: 'sdpa' }],
  ['attention of flat projections', { attention: 'script' }],
])('with predictors, %s prunes as the native model does', async (name, style) => {
  const { dir, path } = await decoder(name, style);
  const out = join(root, `${name} adapted`);
  const manifest = await adaptOnnx(path, out, { predictors: join(dir, 'model.safetensors') });
  expect(manifest.spkv).toEqual({ window: 16, threshold: 0.5 });
  const parts = await PartsModel.open(out);
  const sequence = parts.sequence();
  const ours = [await parts.step(sequence, ids.slice(0, 33)), await parts.step(sequence, ids.slice(33))].flatMap((piece) => [...piece]);
  using model = await loadModel(dir, { device: 'cpu', cacheDtype: 'f32', kvMemory: 1 << 24 });
  const native = await model.stepAll(await model.createSequence({ threshold: 0.5 }), ids);
  const dense = await model.stepAll(await model.createSequence({ threshold: 0 }), ids);
  const largest = native.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const tolerance = 2e-6 * largest * 64; // a few dozen f32 roundings of the largest value
  expect(maxDifference(ours, native)).toBeLessThan(tolerance);
  expect(maxDifference(dense, native)).toBeGreaterThan(100 * tolerance); // something was dropped
});

test('a fixed policy keeps the first tokens and the window', async () => {
  const { path } = await decoder('fixed', { attention: 'gqa' });
  const out = join(root, 'fixed adapted');
  const manifest = await adaptOnnx(path, out, { window: 8, first: 4 });
  expect(manifest.spkv).toEqual({ window: 8, threshold: 0.5 });
  const parts = await PartsModel.open(out);
  const sequence = parts.sequence();
  await parts.step(sequence, ids.slice(0, 50));
  expect(sequence.kept(8)).toEqual([4, 4, 4, 4]);
  await parts.step(sequence, ids.slice(50));
  expect(sequence.kept(8)).toEqual([4, 4, 4, 4]);
  for (const utilities of (await runOneGraph(out, ids)).utilities) expect([...utilities]).toEqual(ids.flatMap((_, t) => (t < 4 ? [1, 1] : [0, 0])));
});

test('options, then config.json, say what the window and the threshold are', async () => {
  const { dir, path } = await decoder('settings', { attention: 'gqa' });
  const predictors = join(dir, 'model.safetensors');
  const settings = async (options: object): Promise<OnnxManifest['spkv']> => (await adaptOnnx(path, join(root, 'settings adapted'), { form: 'graph', ...options })).spkv;
  expect(await settings({})).toBeUndefined();
  expect(await settings({ predictors })).toEqual({ window: 16, threshold: 0.5 });
  expect(await settings({ predictors, window: 24, threshold: 0.7 })).toEqual({ window: 24, threshold: 0.7 });
  expect(await settings({ window: 5 })).toEqual({ window: 5, threshold: 0.5 });
  expect(await settings({ first: 5 })).toEqual({ window: 16, threshold: 0.5 });
  writeFileSync(join(dir, 'config.json'), JSON.stringify({ ...CONFIG, spkv: undefined }));
  expect(await settings({ predictors })).toEqual({ window: 128, threshold: 0.5 });
});

test('options that contradict each other, and predictors of another model, are refused', async () => {
  const { dir, path } = await decoder('refused', { attention: 'gqa' });
  const out = join(root, 'refused adapted');
  const predictors = join(dir, 'model.safetensors');
  await expectError(() => adaptOnnx(path, out, { predictors, first: 4 }), 'INVALID_ARGUMENT', /first/);
  await expectError(() => adaptOnnx(path, out, { threshold: 0.4 }), 'INVALID_ARGUMENT', /threshold/);
  await expectError(() => adaptOnnx(path, out, { window: 0 }), 'INVALID_ARGUMENT', /window/);
  await expectError(() => adaptOnnx(path, out, { windows: 1 } as object), 'INVALID_ARGUMENT', /did you mean "window"/);
  const { dir: dense } = await writeRandomCheckpoint(join(root, 'dense'), tinyConfig());
  await expectError(() => adaptOnnx(path, out, { predictors: join(dense, 'model.safetensors') }), 'FILE', /utility_predictor\.fc1\.weight.*no such tensor/);
  const { dir: wider } = await writeRandomCheckpoint(join(root, 'wider'), tinyConfig('llama', { hidden_size: 32, spkv: SPKV }));
  await expectError(() => adaptOnnx(path, out, { predictors: join(wider, 'model.safetensors') }), 'FILE', /fc1\.weight.*expected shape \[8, 16\].*found shape \[8, 32\]|expected shape \[8, 16\] for tensor.*fc1\.weight.*\[8, 32\]/);
});

test('config.json may lie in the directory above, or be that of onnxruntime-genai', async () => {
  const { dir, path } = await decoder('layout', { attention: 'gqa' });
  const above = join(dir, 'config.json');
  mkdirSync(join(dir, 'onnx'));
  const moved = join(dir, 'onnx', 'model.onnx');
  renameSync(path, moved);
  const expected = { layers: 2, heads: 4, kvHeads: 2, headDim: 16, hiddenSize: 16, vocabSize: 48, maxPositions: 256, bosTokenId: 1, eosTokenIds: [2] };
  expect((await adaptOnnx(moved, join(root, 'above'))).model).toEqual(expected);
  renameSync(above, join(root, 'config-of-layout.json'));
  await expectError(() => adaptOnnx(moved, join(root, 'nothing')), 'FILE', /config\.json/);
  writeFileSync(join(dir, 'onnx', 'genai_config.json'), JSON.stringify({
    model: {
      bos_token_id: 1, eos_token_id: [2], context_length: 256, vocab_size: 48,
      decoder: { head_size: 16, hidden_size: 16, num_attention_heads: 4, num_key_value_heads: 2, num_hidden_layers: 2 },
    },
  }));
  expect((await adaptOnnx(moved, join(root, 'genai'))).model).toEqual(expected);
});
