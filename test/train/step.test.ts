import { openCheckpoint } from '../../lib/checkpoint/checkpoint.js';
import { openDevice } from '../../lib/ops.js';
import { Parameters } from '../../lib/train/parameters.js';
import { type Batch, type BatchResult, type TrainingMode, TrainingStep } from '../../lib/train/step.js';
import { maxDifference, testDevice } from '../support/device.js';
import { expectError } from '../support/errors.js';
import { temporaryDirectory } from '../support/files.js';
import { golden, MODEL_DIR } from '../support/golden.js';
import { expectGradient } from '../support/gradients.js';
import { expectSame } from '../support/operands.js';
import { documents, tinyBatch, tinyParameters } from '../support/training.js';

const TOKENS = 640;
const device = testDevice();
const root = temporaryDirectory();
/** A GPU adds up some gradients in the order in which they come; the CPU always in one order. */
const ordered = device.name === 'cpu';
const expectEqual = (actual: Float32Array, expected: Float32Array): void =>
  ordered ? expectSame(actual, expected) : expectGradient(actual, expected, 64);

async function goldenBatch(): Promise<Batch> {
  const ids = (await golden()).ints('input_ids');
  const rows = [0, 1].map((row) => ids.subarray(row * TOKENS, (row + 1) * TOKENS));
  return {
    ids: Int32Array.from(rows.flatMap((row) => Array.from(row.subarray(0, -1)))),
    targets: Int32Array.from(rows.flatMap((row) => Array.from(row.subarray(1)))),
    offsets: Int32Array.of(0, TOKENS - 1, 2 * (TOKENS - 1)),
  };
}

const norm = (values: ArrayLike<number>): number => Math.sqrt(Array.from(values).reduce((sum, value) => sum + value * value, 0));

describe('the reference model', () => {
  test.each([false, true])('has the loss and the gradients of the float64 reference, recompute %s', async (recompute) => {
    const data = await golden();
    const checkpoint = await openCheckpoint(MODEL_DIR);
    using parameters = await Parameters.load(checkpoint, device, checkpoint.config, 0);
    using step = new TrainingStep(parameters, { tokens: 2 * TOKENS, recompute });
    const { loss, tokens } = await step.accumulate(await goldenBatch(), 'soft');
    expect(tokens).toBe(2 * (TOKENS - 1));
    expect(Math.abs(loss / data.floats('soft_loss')[0]! - 1)).toBeLessThan(1e-4);
    let [worst, compared] = [0, 0]; // the largest relative error of a norm or of a whole gradient
    for (const { name, group } of parameters.layout.parts) {
      if (group === 'constant') continue;
      const gradient = (await parameters.gradient(name)).map((value) => value / tokens);
      const short = name.replace(/^model\./, '');
      const size = data.floats(`gradnorm.${short}`)[0]!;
      worst = Math.max(worst, Math.abs(norm(gradient) / size - 1));
      if (!data.names.includes(`grad.${short}`)) continue;
      const expected = data.floats(`grad.${short}`);
      worst = Math.max(worst, norm(gradient.map((value, i) => value - expected[i]!)) / size);
      compared++;
    }
    expect(compared).toBe(data.names.filter((name) => name.startsWith('grad.')).length);
    expect(worst).toBeLessThan(1e-3);
  });
});

describe('a step', () => {
  const batch = tinyBatch([20, 9, 31], 48);

  test.each<TrainingMode>(['dense', 'soft', { alpha: 0.7, threshold: 0.5 }])('gives the same in mode %j when activations are made anew', async (mode) => {
    using parameters = await tinyParameters(device, root, 'qwen3');
    const gradients: Float32Array[] = [];
    for (const recompute of [false, true]) {
      using step = new TrainingStep(parameters, { tokens: 60, recompute });
      await step.accumulate(batch, mode);
      gradients.push(await parameters.gradients.readFloats());
    }
    expectEqual(gradients[1]!, gradients[0]!);
  });

  test('logits in chunks of any size, and micro-batches, give the gradients of the whole', async () => {
    using parameters = await tinyParameters(device, root);
    using whole = new TrainingStep(parameters, { tokens: 60 });
    const once = await whole.accumulate(batch, 'soft');
    const expected = await parameters.gradients.readFloats();
    for (const logitRows of [1, 17, 60]) {
      using step = new TrainingStep(parameters, { tokens: 60, logitRows });
      await step.accumulate(batch, 'soft');
      expectGradient(await parameters.gradients.readFloats(), expected, ordered ? 64 : 256);
    }
    const parts: BatchResult[] = [];
    using pieces = new TrainingStep(parameters, { tokens: 40 });
    for (const [from, to] of [[0, 1], [1, 3]] as const) parts.push(await pieces.accumulate(documents(batch, from, to), 'soft'));
    expectGradient(await parameters.gradients.readFloats(), expected, 256);
    expect(parts.reduce((sum, { tokens }) => sum + tokens, 0)).toBe(once.tokens);
    expect(parts.reduce((sum, { loss, tokens }) => sum + loss * tokens, 0) / once.tokens).toBeCloseTo(once.loss, 5);
    expect(parts.reduce((sum, { pairs }) => sum + pairs, 0)).toBe(once.pairs);
    expect(parts[0]!.kept!.map((count, i) => count + parts[1]!.kept![i]!)).toEqual(once.kept);
  });

  test('micro-batches that are begun before the one ahead has ended give the same', async () => {
    using parameters = await tinyParameters(device, root);
    using step = new TrainingStep(parameters, { tokens: 40 });
    const both = [documents(batch, 0, 1), documents(batch, 1, 3)];
    const apart: BatchResult[] = [];
    for (const part of both) apart.push(await step.accumulate(part, 'soft'));
    const expected = await parameters.gradients.readFloats();
    await step.update({ learningRate: 0 });
    const ahead = await Promise.all(both.map((part) => step.accumulate(part, 'soft')));
    if (ordered) expect(ahead).toEqual(apart);
    expectEqual(await parameters.gradients.readFloats(), expected);
    expect((await step.update({ learningRate: 0 })).gradientNorm).toBeGreaterThan(0);
  });

  test('counts the pairs that thresholds keep', async () => {
    using parameters = await tinyParameters(device, root);
    using step = new TrainingStep(parameters, { tokens: 60, thresholds: [0.5, 0, 1] });
    const { kept, pairs, density } = await step.evaluate(batch, 'dense');
    expect(pairs).toBe(20 - 5 + (9 - 5) + (31 - 5));
    expect(kept!.length).toBe(2 * 2 * 3);
    for (let list = 0; list < 4; list++) {
      expect(density![list]).toBe(kept![list * 3]! / pairs);
      expect(kept![list * 3 + 1]).toBe(pairs);
      expect(kept![list * 3 + 2]).toBe(0);
    }
    expect(density!.some((share) => share > 0 && share < 1)).toBe(true);
    expect((await step.evaluate(documents(batch, 1, 2), 'soft')).tokens).toBeLessThan(10);
  });

  test('learns a small task, soft, then on the way to hard gates; bit for bit the same on one thread and on two', async () => {
    const run = async (threads: number) => {
      using own = device.name === 'cpu' ? openDevice('cpu', { threads, pin: false }) : testDevice();
      using parameters = await Parameters.random(own, (await tinyParameters(device, root)).config, 3);
      using step = new TrainingStep(parameters, { tokens: 256 });
      const losses: number[] = [];
      for (let i = 0; i < 60; i++) {
        const hard = i >= 45;
        const { loss } = await step.accumulate(tinyBatch([128, 64, 64], 48, i % 8, 0), hard ? { alpha: (i - 44) / 15, threshold: 0.5 } : 'soft');
        losses.push(loss);
        const { gradientNorm } = await step.update({ learningRate: 0.02, frozenPredictor: hard });
        expect(gradientNorm).toBeGreaterThan(0);
      }
      expect(step.steps).toBe(60);
      return { losses, values: await parameters.values.readFloats(), constants: parameters.layout.parts.filter(({ group }) => group === 'constant') };
    };
    const { losses, values, constants } = await run(2);
    expect(losses[0]).toBeGreaterThan(3.5);
    expect(losses[59]).toBeLessThan(0.75 * losses[0]!);
    expect(constants.length).toBe(2);
    for (const { offset, shape } of constants) expect(values.subarray(offset, offset + shape[0]!).every((value) => value === 0)).toBe(true);
    const again = await run(device.name === 'cpu' ? 1 : 2);
    if (device.name === 'cpu') expectSame(again.values, values);
  });

  test('an update has the learning rates and the decay of its groups', async () => {
    using parameters = await tinyParameters(device, root);
    const before = await parameters.values.readFloats();
    const changes = async (opts: { frozenPredictor?: boolean; predictorScale?: number; weightDecay?: number }) => {
      parameters.values.write(before);
      using step = new TrainingStep(parameters, { tokens: 60 });
      await step.accumulate(batch, 'soft');
      await step.update({ learningRate: 1e-3, weightDecay: 0, ...opts });
      const after = await parameters.values.readFloats();
      const largest = { matrix: 0, vector: 0, predictor: 0, constant: 0 };
      for (const { group, offset, shape } of parameters.layout.parts) {
        const [start, end] = [offset, offset + shape.reduce((a, b) => a * b, 1)];
        largest[group] = Math.max(largest[group], maxDifference(after.subarray(start, end), before.subarray(start, end)));
      }
      return largest;
    };
    // The first step of AdamW moves every weight by the learning rate.
    const first = await changes({});
    for (const [group, expected] of [['matrix', 1e-3], ['vector', 1e-3], ['predictor', 5e-3]] as const) expect(first[group] / expected).toBeCloseTo(1, 2);
    expect(first.constant).toBe(0);
    expect((await changes({ frozenPredictor: true })).predictor).toBe(0);
    expect((await changes({ predictorScale: 2 })).predictor / 2e-3).toBeCloseTo(1, 2);
    const decayed = await changes({ weightDecay: 1 });
    expect(decayed.vector / 1e-3).toBeCloseTo(1, 2);
    expect(decayed.matrix).toBeGreaterThan(1.2e-3);
  });

  test('clips the gradient, and says how large it was', async () => {
    using parameters = await tinyParameters(device, root);
    const norms = [];
    for (const clip of [1e-3, 1e3]) {
      using step = new TrainingStep(parameters, { tokens: 60 });
      const { tokens } = await step.accumulate(batch, 'soft');
      const gradient = (await parameters.gradients.readFloats()).map((value) => value / tokens);
      norms.push((await step.update({ learningRate: 0, clip })).gradientNorm / norm(gradient));
      const momentum = norm(await step.optimizer.momentum.readFloats());
      expect(momentum / (0.1 * Math.min(clip, norm(gradient)))).toBeCloseTo(1, 4);
    }
    for (const ratio of norms) expect(ratio).toBeCloseTo(1, 4);
  });
});

describe('what goes wrong', () => {
  const batch = tinyBatch([20, 9, 31], 48);

  test('a loss that is not finite names the step and the layer, and leaves the weights', async () => {
    using parameters = await tinyParameters(device, root);
    using step = new TrainingStep(parameters, { tokens: 60 });
    await step.accumulate(batch, 'soft');
    await step.update({ learningRate: 1e-3 });
    const name = 'model.layers.1.mlp.down_proj.weight';
    const weight = parameters.layout.part(parameters.values, name);
    const before = await weight.readFloats();
    weight.write(before.map((value, i) => (i === 3 ? NaN : value)));
    parameters.refresh();
    await expectError(() => step.accumulate(batch, 'soft'), 'NON_FINITE', 'Step 2', 'output of layer 1');
    await expectError(() => step.update({ learningRate: 1 }), 'INVALID_ARGUMENT', 'accumulate');
    weight.write(before);
    parameters.refresh();
    expect((await step.accumulate(batch, 'soft')).loss).toBeGreaterThan(0);
  });

  test('the layer is named although the next micro-batch, which is sound, has come after it', async () => {
    using parameters = await tinyParameters(device, root);
    using step = new TrainingStep(parameters, { tokens: 60 });
    const row = parameters.layout.part(parameters.values, 'model.embed_tokens.weight').slice(0, 47, 48);
    row.write(new Float32Array(row.size).fill(Infinity));
    parameters.refresh();
    const sound = { ...batch, ids: batch.ids.map((id) => (id === 47 ? 46 : id)) };
    const running = [{ ...batch, ids: sound.ids.with(7, 47) }, sound].map((part) => step.accumulate(part, 'soft'));
    await expectError(() => running[0], 'NON_FINITE', 'Step 1', 'the embedding is not');
    expect((await running[1]!).loss).toBeGreaterThan(0);
    await expectError(() => step.update({ learningRate: 1 }), 'INVALID_ARGUMENT', 'accumulate');
  });

  test('a gradient that is not finite changes nothing', async () => {
    using parameters = await tinyParameters(device, root);
    using step = new TrainingStep(parameters, { tokens: 60 });
    const before = await parameters.values.readFloats();
    await step.accumulate(batch, 'soft');
    const part = parameters.layout.part(parameters.gradients, 'model.layers.0.self_attn.k_proj.weight');
    part.write((await part.readFloats()).fill(Infinity));
    await expectError(() => step.update({ learningRate: 1 }), 'NON_FINITE', 'Step 1', 'layer 0', 'as they were');
    expectSame(await parameters.values.readFloats(), before);
    expect(step.steps).toBe(0);
  });

  test('cancelled work leaves no gradients behind', async () => {
    using parameters = await tinyParameters(device, root);
    using step = new TrainingStep(parameters, { tokens: 8192 });
    const long = tinyBatch([4096, 4096], 48); // so that it is still running when it is cancelled
    const { loss } = await step.accumulate(long, 'soft');
    await step.update({ learningRate: 0 });
    const expected = await parameters.gradients.readFloats();
    let cancelled = false;
    // On a machine that stands still just then it has ended before: then once more.
    for (let attempts = 0; !cancelled && attempts < 20; attempts++) {
      const controller = new AbortController();
      const running = step.accumulate(long, 'soft', { signal: controller.signal });
      controller.abort(new Error('enough'));
      const error = await running.then(() => undefined, (reason: Error) => reason);
      cancelled = error?.message === 'enough';
      if (!cancelled) await step.update({ learningRate: 0 });
    }
    expect(cancelled).toBe(true);
    await expectError(() => step.update({ learningRate: 1 }), 'INVALID_ARGUMENT');
    expect((await step.accumulate(long, 'soft')).loss).toBe(loss);
    expectEqual(await parameters.gradients.readFloats(), expected);
  });

  test('arguments are checked', async () => {
    using parameters = await tinyParameters(device, root);
    using step = new TrainingStep(parameters, { tokens: 60 });
    const refused = (changes: object, ...parts: string[]) => expectError(() => step.accumulate({ ...batch, ...changes }, 'soft'), 'INVALID_ARGUMENT', ...parts);
    await refused({ ids: [1, 2] }, 'Int32Array', 'ids');
    await refused({ ids: new Int32Array(61) }, '60', 'ids');
    await refused({ ids: new Int32Array(0) }, 'ids');
    await refused({ targets: new Int32Array(59) }, 'targets');
    for (const offsets of [[0], [0, 59], [1, 60], [0, 30, 20, 60]]) await refused({ offsets: Int32Array.from(offsets) }, 'offsets');
    await expectError(() => step.accumulate({ ...batch, ids: batch.ids.with(7, 48) }, 'soft'), 'OUT_OF_RANGE', 'ids[7]');
    await expectError(() => step.accumulate({ ...batch, targets: batch.targets.with(7, 48) }, 'soft'), 'OUT_OF_RANGE', 'targets[7]');
    await expectError(() => step.accumulate(batch, { alpha: 2, threshold: 0.5 }), 'INVALID_ARGUMENT', 'alpha');
    for (const opts of [{ tokens: 0 }, { tokens: 10, window: 0 }, { tokens: 10, logitRows: 0 }, { tokens: 10, recompute: 1 }, { tokens: 10, thresholds: [2] }, { tokens: 10, tau: 1 }]) {
      await expectError(() => new TrainingStep(parameters, opts as never), 'INVALID_ARGUMENT');
    }
    using dense = await tinyParameters(device, root, 'llama', { spkv: undefined });
    using denseStep = new TrainingStep(dense, { tokens: 60 });
    await expectError(() => denseStep.accumulate(batch, 'soft'), 'UNSUPPORTED', 'dense');
    const { kept, density, loss } = await denseStep.accumulate(batch, 'dense');
    expect({ kept, density }).toEqual({ kept: null, density: null });
    expect(loss).toBeGreaterThan(0);
  });
});
