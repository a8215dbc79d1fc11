// Decoders of others, adapted and run by spkv/onnxruntime, against onnxruntime alone and the native model.
import { join } from 'node:path';
import { loadModel as loadNative } from '../../lib/index.js';
import { adaptOnnx } from '../../lib/onnx/index.js';
import { loadModel, ROUTES } from '../../lib/onnxruntime/index.js';
import { SPKV, tinyConfig, writeRandomCheckpoint } from '../support/checkpoints.js';
import { maxDifference, random } from '../support/device.js';
import { temporaryDirectory } from '../support/files.js';
import { decoderLogits, type Style, writeDecoder } from '../support/onnx-decoders.js';
import { closeOnnx } from '../support/onnx-session.js';

afterAll(closeOnnx);
const root = temporaryDirectory();
const CONFIG = tinyConfig('llama', { head_dim: 16, spkv: SPKV });
const VOCABULARY = 48;
const uniform = random(23);
const ids = Array.from({ length: 60 }, () => Math.floor(uniform() * VOCABULARY));

const STYLES: [name: string, style: Style][] = [
  ['GroupQueryAttention', { attention: 'gqa', rotates: true, packed: true }],
  ['attention written out', { attention: 'sdpa' }],
];

describe.each(STYLES)('%s', (name, style) => {
  let checkpoint: string;
  let dense: string;
  let pruned: string;
  let expected: Float32Array;
  let tolerance: number;
  beforeAll(async () => {
    const { dir, tensors } = await writeRandomCheckpoint(join(root, name), CONFIG);
    const path = await writeDecoder(dir, CONFIG, tensors, style);
    expected = await decoderLogits(path, CONFIG, style, ids);
    tolerance = 2e-6 * 64 * expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0); // a few dozen f32 roundings
    [checkpoint, dense, pruned] = [dir, join(root, `${name} dense`), join(root, `${name} pruned`)];
    await adaptOnnx(path, dense);
    await adaptOnnx(path, pruned, { predictors: join(dir, 'model.safetensors') });
  });

  describe.each(ROUTES)('route %s', (route) => {
    test('at threshold 0 it gives the logits of the decoder as it was', async () => {
      for (const dir of [dense, pruned]) {
        using model = await loadModel(dir, { route, chunk: 16 });
        const sequence = await model.createSequence({ threshold: 0 });
        const first = await model.stepAll(sequence, ids.slice(0, 21));
        expect(maxDifference(first, expected.subarray(0, first.length))).toBeLessThan(tolerance);
        // In chunks, of which only the last has logits.
        const last = await model.prefill(sequence, ids.slice(21));
        expect(maxDifference(last, expected.subarray(-VOCABULARY))).toBeLessThan(tolerance);
      }
    });

    test('with predictors it prunes as the native model does', async () => {
      using model = await loadModel(pruned, { route });
      using native = await loadNative(checkpoint, { device: 'cpu', cacheDtype: 'f32', kvMemory: 1 << 24 });
      const logits = await model.stepAll(await model.createSequence(), ids);
      expect(maxDifference(logits, await native.stepAll(await native.createSequence(), ids))).toBeLessThan(tolerance);
      expect(maxDifference(logits, expected)).toBeGreaterThan(100 * tolerance); // something was dropped
    });
  });
});
