import fc from 'fast-check';
import { logProbabilities } from '../../lib/ops.js';
import { normals, random } from '../support/device.js';
import {
  expectClose, F32_ROUNDING, failure, padded, paddings, Poisoned, refusal, rowCounts, RUNS, seeds, testDevices,
} from '../support/operands.js';
import { chainOf } from '../support/sampling.js';

function naive(row: Float32Array, target: number): number {
  if (target < 0) return 0;
  const largest = row.reduce((a, b) => Math.max(a, b), -Infinity);
  let sum = 0;
  for (const x of row) sum += Math.exp(x - largest);
  return row[target]! - largest - Math.log(sum);
}

describe.each(testDevices())('log_probabilities on %s', (_, device) => {
  test('agrees with float64; negative targets give 0', async () => {
    const property = fc.asyncProperty(
      rowCounts, fc.oneof(fc.integer({ min: 1, max: 130 }), fc.integer({ min: 1000, max: 5000 })), paddings, seeds, fc.constantFrom(0, 1, 10, 100),
      async (rows, V, padding, seed, scale) => {
        const T = V > 130 ? Math.min(rows, 20) : rows;
        const uniform = random(seed);
        const logits = normals(T * V, uniform, scale);
        const targets = Int32Array.from({ length: T }, () => Math.floor(uniform() * (V + 1)) - 1);
        const expected = Float64Array.from(targets, (target, t) => naive(logits.subarray(t * V, (t + 1) * V), target));
        const out = new Poisoned(device, 'f32', [T]);
        logProbabilities(out.view, padded(device, logits, [T, V], padding), device.from(targets, [T]));
        expectClose(await out.read(), expected, (i) => F32_ROUNDING * (8 * (1 + Math.abs(expected[i]!)) + chainOf(V)));
      },
    );
    await fc.assert(property, RUNS);
  });

  test('does not overflow, and keeps NaN and infinity', async () => {
    const rows = [[3e38, 3e38], [-3e38, -3e38], [NaN, 0], [0, NaN], [-Infinity, 0], [0, -Infinity], [Infinity, 0], [-Infinity, -Infinity]];
    const out = device.tensor('f32', [rows.length]);
    logProbabilities(out, device.from(Float32Array.from(rows.flat()), [rows.length, 2]), device.tensor('i32', [rows.length]));
    const half = Math.fround(-Math.LN2);
    expect(Array.from(await out.read())).toEqual([half, half, NaN, NaN, -Infinity, 0, NaN, NaN]);
  });

  test.each([3, 2147483647])('the target %d is out of the range of 3 logits', async (target) => {
    const out = device.tensor('f32', [2]);
    const targets = device.from(Int32Array.of(-1, target), [2]);
    const error = await failure(() => logProbabilities(out, device.tensor('f32', [2, 3]), targets), out);
    expect(error.code).toBe('OUT_OF_RANGE');
    expect(error.message).toContain(`Expected an id below 3 for targets[1] but received ${target}`);
    await out.read();
  });

  test('arguments are checked', () => {
    const out = device.tensor('f32', [2]);
    const logits = device.tensor('f32', [2, 3]);
    const targets = device.tensor('i32', [2]);
    expect(refusal(() => logProbabilities(device.tensor('i32', [2]), logits, targets))).toBe('DTYPE');
    expect(refusal(() => logProbabilities(out, device.tensor('bf16', [2, 3]), targets))).toBe('DTYPE');
    expect(refusal(() => logProbabilities(out, logits, device.tensor('f32', [2])))).toBe('DTYPE');
    expect(refusal(() => logProbabilities(device.tensor('f32', [3]), logits, targets))).toBe('SHAPE');
    expect(refusal(() => logProbabilities(out, device.tensor('f32', [6]), targets))).toBe('SHAPE');
    expect(refusal(() => logProbabilities(out, logits, device.tensor('i32', [3])))).toBe('SHAPE');
    expect(refusal(() => logProbabilities(logits.at(1).slice(0, 0, 2), logits, targets))).toBe('INVALID_ARGUMENT');
  });
});
