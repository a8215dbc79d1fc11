import fc from 'fast-check';
import { rmsNorm } from '../../lib/ops.js';
import { normals, random } from '../support/device.js';
import {
  columnCounts, expectClose, expectRounding, expectSame, F32_ROUNDING, floatTypes, inType, padded, paddings, Poisoned, refusal,
  rowCounts, RUNS, seeds, testDevices,
} from '../support/operands.js';

function naive(x: Float32Array, weight: Float32Array, epsilon: number): Float64Array {
  const C = weight.length;
  const out = new Float64Array(x.length);
  for (let row = 0; row < x.length; row += C) {
    let squares = 0;
    for (let i = 0; i < C; i++) squares += x[row + i]! ** 2;
    for (let i = 0; i < C; i++) out[row + i] = (x[row + i]! / Math.sqrt(squares / C + epsilon)) * weight[i]!;
  }
  return out;
}

// At most C / 16 additions follow each other in a sum of squares, and the root halves their error.
const roundings = (C: number) => C / 32 + 9;

describe.each(testDevices())('rms_norm on %s', (_, device) => {
  test('agrees with a loop in float64, over the last of two or three dimensions', async () => {
    const property = fc.asyncProperty(
      rowCounts, fc.option(fc.integer({ min: 1, max: 4 })), columnCounts, floatTypes, paddings, seeds, fc.constantFrom(1e-3, 1, 1e3),
      async (T, heads, C, dtype, padding, seed, scale) => {
        const uniform = random(seed);
        const shape = heads === null ? [T, C] : [T, heads, C];
        const x = normals(T * (heads ?? 1) * C, uniform, scale);
        const weight = inType(normals(C, uniform), dtype);
        const epsilon = Math.fround(1e-5);
        const expected = naive(x, weight.values, epsilon);
        const tolerance = (i: number) => roundings(C) * F32_ROUNDING * Math.abs(expected[i]!);

        const out = new Poisoned(device, 'f32', shape, padding);
        const input = padded(device, x, shape, (padding * 3) % 7);
        const factors = device.from(weight.data, [C]);
        rmsNorm(out.view, input, factors, epsilon);
        const apart = await out.read();
        expectClose(apart, expected, tolerance);
        await expectRounding(device, shape, padding, (rounded) => rmsNorm(rounded, input, factors, epsilon));

        rmsNorm(input, input, factors, epsilon);
        expectSame(await input.read(), apart);
      },
    );
    await fc.assert(property, RUNS);
  });

  test('heads between the heads of others: strides of their own', async () => {
    const [T, H, D] = [3, 2, 5];
    const rows = normals(T * 4 * D, random(7));
    const wide = device.from(rows, [T, 4, D]);
    const weight = new Float32Array(D).fill(1);
    rmsNorm(wide.slice(1, 1, 1 + H), wide.slice(1, 1, 1 + H), device.from(weight, [D]), 0);
    const result = await wide.read();
    for (let t = 0; t < T; t++) {
      for (let h = 0; h < 4; h++) {
        const at = (t * 4 + h) * D;
        const row = rows.slice(at, at + D);
        const expected = h === 1 || h === 2 ? naive(row, weight, 0) : row;
        expectClose(result.slice(at, at + D), expected, (i) => roundings(D) * F32_ROUNDING * Math.abs(expected[i]!));
      }
    }
  });

  test('NaN and infinity do not vanish, and stay in their row', async () => {
    const C = 37;
    const x = new Float32Array(3 * C).fill(1);
    x[C - 1] = NaN;
    x[C] = Infinity;
    const out = device.tensor('f32', [3, C]);
    rmsNorm(out, device.from(x, [3, C]), device.from(new Float32Array(C).fill(1), [C]), 1e-5);
    const result = await out.read();
    expect(result.slice(0, C).every((value) => Number.isNaN(value))).toBe(true);
    expect(result[C]).toBeNaN();
    expect(result.slice(2 * C).every((value) => Math.abs(value - 1) < 1e-4)).toBe(true);
  });

  test('arguments are checked', () => {
    const x = device.tensor('f32', [2, 4]);
    const weight = device.tensor('f32', [4]);
    expect(refusal(() => rmsNorm(device.tensor('i32', [2, 4]), x, weight, 0))).toBe('DTYPE');
    expect(refusal(() => rmsNorm(x, device.tensor('bf16', [2, 4]), weight, 0))).toBe('DTYPE');
    expect(refusal(() => rmsNorm(x, device.tensor('i32', [2, 4]), weight, 0))).toBe('DTYPE');
    expect(refusal(() => rmsNorm(x, x, device.tensor('i32', [4]), 0))).toBe('DTYPE');
    expect(refusal(() => rmsNorm(x, device.tensor('f32', [3, 4]), weight, 0))).toBe('SHAPE');
    expect(refusal(() => rmsNorm(x, device.tensor('f32', [2, 2, 2]), weight, 0))).toBe('SHAPE');
    expect(refusal(() => rmsNorm(x, x, device.tensor('f32', [5]), 0))).toBe('SHAPE');
    expect(refusal(() => rmsNorm(device.tensor('f32', [4]), x, weight, 0))).toBe('SHAPE');
    for (const epsilon of [-1, NaN, Infinity, '0' as never]) {
      expect(refusal(() => rmsNorm(x, x, weight, epsilon))).toBe('INVALID_ARGUMENT');
    }
  });
});
