import { parseConfig } from '../../lib/checkpoint/config.js';
import { liveAllocations } from '../../lib/ops.js';
import { flopsPerToken, measurePeak } from '../../lib/train/flops.js';
import { checkMemory, memoryNeed, outOfMemory } from '../../lib/train/memory.js';
import { Parameters } from '../../lib/train/parameters.js';
import { countParameters, planRun } from '../../lib/train/plan.js';
import { checkSettings, type GivenSettings, SETTING_NAMES, SETTINGS, snakeCase } from '../../lib/train/settings.js';
import { TrainingStep } from '../../lib/train/step.js';
import { SPKV, tinyConfig } from '../support/checkpoints.js';
import { collectGarbage, testDevice } from '../support/device.js';
import { expectError } from '../support/errors.js';

const config = parseConfig(tinyConfig('llama', { spkv: SPKV }), 'config.json');
const plan = (given: GivenSettings = {}, of = config) => planRun(checkSettings(given), of);
// 2 layers of q 16·16, k and v 8·16 each, o 16·16, three of 24·16, two norms; embedding and head 48·16; a norm
const PARAMETERS = 2 * (256 + 128 + 128 + 256 + 3 * 384 + 32) + 2 * 768 + 16;

describe('planRun', () => {
  test('counts parameters without predictors, and derives the steps from tokens', () => {
    expect(countParameters(config)).toBe(PARAMETERS);
    const reference = plan({ sequenceLength: 16, batchSize: 4 });
    expect(reference.parameters).toBe(PARAMETERS);
    expect(reference.steps).toBe(Math.floor((20 * PARAMETERS) / 64));
    expect(plan({ sequenceLength: 16, batchSize: 4, tokens: 6400 }).steps).toBe(100);
    expect(plan({ steps: 7 }).steps).toBe(7);
    expect(plan({ tokens: 1 }).steps).toBe(1);
  });

  test('fills in what follows from the model and the length of the run', () => {
    expect(plan({ steps: 1000 })).toMatchObject({
      sequenceLength: 256, microBatch: 32, warmupSteps: 20, window: 16, threshold: 0.5, predictorHiddenSize: 8, validateEvery: 50, saveEvery: 100,
    });
    expect(plan({ steps: 100_000 }).warmupSteps).toBe(300);
    expect(plan({ sequenceLength: 20_000 }).microBatch).toBe(1);
    expect(plan({ sequenceLength: 1000, batchSize: 64 }).microBatch).toBe(16);
  });
});

describe('checkSettings', () => {
  test('has a default for everything that does not depend on other things', () => {
    for (const name of SETTING_NAMES) {
      const setting = SETTINGS[name];
      expect(setting.default !== undefined || 'otherwise' in setting).toBe(true);
    }
    expect(checkSettings({})).toMatchObject({ tokensPerParameter: 20, learningRateFloor: 0.05, softShare: 0.75, annealSteps: 500, predictorRate: 5, weightDecay: 0.1, predictorBias: 5, beta1: 0.9, beta2: 0.95, clip: 1, densityWeight: 0, dense: false });
  });

  test.each(SETTING_NAMES.map((name) => [name]))('%s of another type is refused by name', async (name) => {
    const wrong = SETTINGS[name].kind === 'choice' ? 'neither' : {};
    await expectError(() => checkSettings({ [name]: wrong } as GivenSettings), 'INVALID_ARGUMENT', ` for ${name} but received`);
  });

  test('names are written as config.json writes them', () => {
    expect(['predictorHiddenSize', 'seed', 'beta1'].map(snakeCase)).toEqual(['predictor_hidden_size', 'seed', 'beta1']);
  });
});

describe('memory and operations', () => {
  test('weights take sixteen bytes each, activations grow with the tokens and shrink with recomputation', () => {
    const predictors = 2 * (8 * 16 + 8 + 2 * 8 + 2);
    const need = memoryNeed(config, plan({ steps: 1, sequenceLength: 64, batchSize: 8, microBatch: 8 }), 'f32');
    expect(need.weights).toBe(16 * (PARAMETERS + predictors));
    const half = memoryNeed(config, plan({ steps: 1, sequenceLength: 64, batchSize: 8, microBatch: 4 }), 'f32');
    expect(need.activations / half.activations).toBeCloseTo(2, 6);
    const less = memoryNeed(config, plan({ steps: 1, sequenceLength: 64, batchSize: 8, microBatch: 8, recompute: true }), 'f32');
    expect(less.activations).toBeLessThan(need.activations);
  });

  test.each([[false], [true]])('the estimate is what a training step takes, recompute %s', async (recompute) => {
    using device = testDevice();
    await collectGarbage();
    const large = parseConfig(tinyConfig('qwen3', { spkv: SPKV, hidden_size: 128, intermediate_size: 320, num_hidden_layers: 3, head_dim: 32 }), 'config.json');
    const settings = plan({ steps: 1, sequenceLength: 256, batchSize: 4, microBatch: 4, recompute }, large);
    const before = liveAllocations().bytes;
    using parameters = await Parameters.random(device, large, 0);
    using step = new TrainingStep(parameters, { tokens: 4 * 256, recompute });
    const taken = liveAllocations().bytes - before;
    const { weights, activations } = memoryNeed(large, settings, device.precision);
    expect(step.recompute).toBe(recompute);
    expect(Math.abs((weights + activations) / taken - 1)).toBeLessThan(0.03);
  });

  test('an error says how much is needed and what can be lowered', async () => {
    const settings = plan({ steps: 1, sequenceLength: 128, microBatch: 1, recompute: true });
    const error = outOfMemory({ weights: 2 ** 31, activations: 2 ** 20 }, settings, 'cuda:0 has 1 GiB');
    expect(error.message).toBe('Training needs about 2.0 GiB: 2.0 GiB for weights and optimiser, 1 MiB for the activations of 1 × 128 tokens; cuda:0 has 1 GiB. Lower sequenceLength (now 128)');
    using device = testDevice();
    await expectError(() => checkMemory({ weights: 2 ** 60, activations: 0 }, settings, device), 'OUT_OF_MEMORY', /has \d/);
    expect(() => checkMemory({ weights: 1, activations: 1 }, settings, device)).not.toThrow();
  });

  test('six operations for every weight that is multiplied, and attention over half the sequence', () => {
    const products = 2 * (256 + 128 + 128 + 256 + 3 * 384 + 8 * 16 + 2 * 8) + 768;
    expect(flopsPerToken(config, 64)).toBe(6 * products + 6 * 2 * 2 * 16 * 32);
  });

  test('the peak of the device is measured', async () => {
    using device = testDevice();
    const peak = await measurePeak(device);
    expect(peak).toBeGreaterThan(1e8);
    expect(peak).toBeLessThan(1e16);
  });
});
