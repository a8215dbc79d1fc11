import fc from 'fast-check';
import { crossEntropy } from '../../lib/ops.js';
import { normals, random } from '../support/device.js';
import { differences, sizeOf } from '../support/gradients.js';
import { expectClose, F32_ROUNDING, failure, paddings, Poisoned, refusal, rowCounts, RUNS, seeds, testDevices } from '../support/operands.js';
import { chainOf } from '../support/sampling.js';

// The largest term is 1, and left out of the sum: a loss near 0 keeps its digits, and so do its differences.
function lossOf(row: Float64Array, target: number): number {
  if (target < 0) return 0;
  const largest = Math.max(...row);
  const first = row.indexOf(largest);
  const others = row.reduce((sum, logit, v) => (v === first ? sum : sum + Math.exp(logit - largest)), 0);
  return largest - row[target]! + Math.log1p(others);
}

describe.each(testDevices())('cross_entropy on %s', (_, device) => {
  test('agrees with float64, its gradient with differences', async () => {
    const widths = fc.oneof({ weight: 4, arbitrary: fc.integer({ min: 1, max: 60 }) }, fc.constant(3000));
    const property = fc.asyncProperty(rowCounts, widths, paddings, fc.constantFrom(1, 0.125, 3), seeds, async (rows, V, padding, factor, seed) => {
      const T = V > 60 ? Math.min(rows, 5) : rows;
      const uniform = random(seed);
      const values = normals(T * V, uniform, 4);
      const targets = Int32Array.from({ length: T }, () => (uniform() < 0.2 ? -1 : Math.floor(uniform() * V)));
      const logits = new Poisoned(device, 'f32', [T, V], padding);
      logits.view.write(values);
      const losses = device.tensor('f32', [T]);
      crossEntropy(losses, logits.view, device.from(targets), factor);
      const summing = chainOf(V);
      const [actual, gradients] = [await losses.read(), await logits.read()];
      for (const t of [0, T - 1]) {
        const row = Float64Array.from(values.subarray(t * V, (t + 1) * V));
        const expected = lossOf(row, targets[t]!);
        expectClose([actual[t]!], [expected], () => F32_ROUNDING * (8 * (1 + Math.max(...row.map(Math.abs))) + summing));
        const gradient = gradients.subarray(t * V, (t + 1) * V);
        // Differences where there are few, the equation where there are many.
        const slopes = V > 60
          ? row.map((logit, v) => (targets[t]! < 0 ? 0 : factor * (Math.exp(logit - expected - row[targets[t]!]!) - (v === targets[t] ? 1 : 0))))
          : differences(() => factor * lossOf(row, targets[t]!), row);
        // The target's is factor * p - factor: it cancels where p is near 1, to within the rounding of factor * p.
        const size = sizeOf(slopes);
        expectClose(gradient, slopes, (v) => (64 + summing) * F32_ROUNDING * Math.max(Math.abs(slopes[v]!), size, v === targets[t] ? factor : 0) + 1e-12);
      }
    });
    await fc.assert(property, RUNS);
  });

  test('keeps its digits where the target is all but certain, and where all logits are large', async () => {
    const logits = device.from(Float32Array.of(30, 0, 0, 1000, 1000, 990), [2, 3]);
    const losses = device.tensor('f32', [2]);
    crossEntropy(losses, logits, device.from(Int32Array.of(0, 1)));
    const expected = [Math.log1p(2 * Math.exp(-30)), Math.log(2 + Math.exp(-10))];
    expectClose(await losses.readFloats(), expected, (i) => 8 * F32_ROUNDING * [1, 1000][i]!);
    const p = 1 / (2 + Math.exp(-10));
    expectClose(
      await logits.readFloats(), [-2 * Math.exp(-30), Math.exp(-30), Math.exp(-30), p, p - 1, p * Math.exp(-10)],
      (i) => 8 * F32_ROUNDING * [1, Math.exp(-30), Math.exp(-30), 1, 1, Math.exp(-10)][i]!,
    );
  });

  test('what is ignored has loss and gradient 0, whatever its logits are', async () => {
    const logits = device.from(Float32Array.of(NaN, Infinity, 1, 2), [2, 2]);
    const losses = device.from(Float32Array.of(7, 7));
    crossEntropy(losses, logits, device.from(Int32Array.of(-100, -1)));
    expect(Array.from(await losses.read())).toEqual([0, 0]);
    expect(Array.from(await logits.read())).toEqual([0, 0, 0, 0]);
  });

  test('NaN and infinity among the logits are told', async () => {
    const losses = device.tensor('f32', [3]);
    crossEntropy(losses, device.from(Float32Array.of(NaN, 1, Infinity, 1, 1, -Infinity), [3, 2]), device.from(Int32Array.of(1, 1, 0)));
    expect(Array.from(await losses.read())).toEqual([NaN, NaN, 0]);
  });

  test('arguments are checked', async () => {
    const [losses, logits, targets] = [device.tensor('f32', [2]), device.tensor('f32', [2, 4]), device.from(Int32Array.of(0, 3))];
    expect(refusal(() => crossEntropy(device.tensor('f32', [3]), logits, targets))).toBe('SHAPE');
    expect(refusal(() => crossEntropy(device.tensor('bf16', [2]), logits, targets))).toBe('DTYPE');
    expect(refusal(() => crossEntropy(losses, device.tensor('i32', [2, 4]), targets))).toBe('DTYPE');
    expect(refusal(() => crossEntropy(losses, logits, losses))).toBe('DTYPE');
    expect(refusal(() => crossEntropy(losses, logits, device.from(Int32Array.of(0))))).toBe('SHAPE');
    expect(refusal(() => crossEntropy(losses, logits, targets, NaN))).toBe('INVALID_ARGUMENT');
    expect(refusal(() => crossEntropy(losses, undefined as never, targets))).toBe('INVALID_ARGUMENT');
    const error = await failure(() => crossEntropy(losses, logits, device.from(Int32Array.of(0, 4))), losses);
    expect(error.code).toBe('OUT_OF_RANGE');
    expect(error.message).toMatch(/targets\[1\]/);
  });
});
