import { openCheckpoint } from '../../lib/checkpoint/checkpoint.js';
import { Parameters } from '../../lib/train/parameters.js';
import { TrainingStep } from '../../lib/train/step.js';
import { testDevice } from '../support/device.js';
import { expectError } from '../support/errors.js';
import { temporaryDirectory } from '../support/files.js';
import { writeTinyTask } from '../support/tiny-task.js';

const device = testDevice();
const { model } = await writeTinyTask(temporaryDirectory());
const checkpoint = await openCheckpoint(model);
const config = { ...checkpoint.config, spkv: { window: 4, threshold: 0.5, predictorHiddenSize: 8, predictorActivation: 'silu' as const } };
const TOKENS = 24;
const batch = { ids: Int32Array.from({ length: TOKENS }, (_, i) => 3 + (i % 7)), targets: Int32Array.from({ length: TOKENS }, (_, i) => 3 + (i % 5)), offsets: Int32Array.of(0, TOKENS) };

/** Gradient of the last bias of the last layer's predictor, whose utilities are all sigmoid(1). */
async function biasGradient(densityWeight: number): Promise<{ loss: number; gradient: Float32Array }> {
  using parameters = await Parameters.load(checkpoint, device, config, 0);
  const predictor = 'model.layers.1.self_attn.utility_predictor.fc2';
  parameters.layout.part(parameters.values, `${predictor}.weight`).write(new Float32Array(2 * 8));
  parameters.layout.part(parameters.values, `${predictor}.bias`).write(Float32Array.of(1, 1));
  parameters.refresh();
  using step = new TrainingStep(parameters, { tokens: TOKENS, densityWeight });
  const { loss } = await step.accumulate(batch, 'soft');
  return { loss, gradient: await parameters.gradient(`${predictor}.bias`) };
}

test('adds the derivative of the weighted mean utility, and leaves the loss as it is told alone', async () => {
  const [without, weighted] = [await biasGradient(0), await biasGradient(0.3)];
  expect(weighted.loss).toBe(without.loss);
  const u = 1 / (1 + Math.exp(-1));
  const expected = (0.3 / (2 * 2)) * TOKENS * u * (1 - u); // gradients are sums over tokens; the mean is over 2 layers × 2 heads
  for (const head of [0, 1]) expect(weighted.gradient[head]! - without.gradient[head]!).toBeCloseTo(expected, 4);
});

test('refuses a weight below 0', async () => {
  using parameters = await Parameters.load(checkpoint, device, config, 0);
  await expectError(() => new TrainingStep(parameters, { tokens: TOKENS, densityWeight: -1 }), 'INVALID_ARGUMENT', 'a number of at least 0 for densityWeight but received -1');
});
