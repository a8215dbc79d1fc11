import fc from 'fast-check';
import { bf16ToFloats, floatsToBf16, rmsNorm, rmsNormBackward } from '../../lib/ops.js';
import { normals, random } from '../support/device.js';
import { differences, dot, expectGradient } from '../support/gradients.js';
import {
  columnCounts, expectClose, expectRounding, expectSame, F32_ROUNDING, floatTypes, inType, padded, paddings, Poisoned, refusal,
  rowCounts, RUNS, seeds, testDevices,
} from '../support/operands.js';

function naive(x: ArrayLike<number>, weight: ArrayLike<number>, epsilon: number): Float64Array {
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

/** How large the two terms of each element of dx are, which may cancel: r w dy and x r^3 / C times the sum of w dy x. */
function backwardTerms(x: Float32Array, weight: Float64Array, epsilon: number, dy: Float32Array): Float64Array {
  const C = x.length;
  const r = 1 / Math.sqrt(dot(x, x) / C + epsilon);
  let products = 0;
  for (let i = 0; i < C; i++) products += Math.abs(weight[i]! * dy[i]! * x[i]!);
  return Float64Array.from(x, (value, i) => r * Math.abs(weight[i]! * dy[i]!) + (Math.abs(value) * r ** 3 / C) * products);
}

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
    expect(refusal(() => rmsNorm(x, device.tensor('bf16', [2, 4]), weight, 0))).toBe(device.name === 'cpu' ? 'DTYPE' : 'no error');
    expect(refusal(() => rmsNorm(x, device.tensor('i32', [2, 4]), weight, 0))).toBe('DTYPE');
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

describe.each(testDevices())('rms_norm_backward on %s', (_, device) => {
  test('agrees with differences, in place and added to what is there', async () => {
    const property = fc.asyncProperty(
      fc.integer({ min: 1, max: 40 }), fc.option(fc.integer({ min: 1, max: 3 })), fc.integer({ min: 1, max: 40 }), floatTypes, fc.boolean(),
      paddings, seeds,
      async (T, heads, C, dtype, accumulate, padding, seed) => {
        const uniform = random(seed);
        const rows = T * (heads ?? 1);
        const shape = heads === null ? [T, C] : [T, heads, C];
        const [x, dy, before] = [normals(rows * C, uniform), normals(rows * C, uniform), normals(C, uniform)];
        const weight = inType(normals(C, uniform), dtype);
        const epsilon = Math.fround(1e-2);
        const factors = Float64Array.from(weight.values);
        const expected = new Float64Array(rows * C);
        const terms = new Float64Array(rows * C);
        for (let row = 0; row < rows * C; row += C) {
          terms.set(backwardTerms(x.subarray(row, row + C), factors, epsilon, dy.subarray(row, row + C)), row);
          const values = Float64Array.from(x.subarray(row, row + C));
          expected.set(differences(() => dot(naive(values, factors, epsilon), dy.subarray(row, row + C)), values), row);
        }
        const expectedWeight = differences(() => dot(naive(x, factors, epsilon), dy), factors);

        const dx = new Poisoned(device, 'f32', shape, padding);
        if (accumulate) dx.view.write(normals(rows * C, random(seed + 1)));
        const dWeight = device.from(before);
        const gradient = padded(device, dy, shape, (padding * 3) % 7);
        const copy = new Poisoned(device, 'bf16', shape, padding);
        rmsNormBackward(dx.view, dWeight, gradient, padded(device, x, shape, padding), device.from(weight.data), epsilon, accumulate, copy.view);
        expectSame(await copy.read(), bf16ToFloats(floatsToBf16(await dx.read())));
        const there = accumulate ? normals(rows * C, random(seed + 1)) : new Float32Array(rows * C);
        const tolerance = (i: number) => 64 * F32_ROUNDING * (terms[i]! + Math.abs(there[i]!));
        expectClose(await dx.read(), expected.map((value, i) => value + there[i]!), tolerance);
        const sums = Float64Array.from(before, Math.abs);
        naive(x, new Float32Array(C).fill(1), epsilon).forEach((value, i) => (sums[i % C]! += Math.abs(value * dy[i]!)));
        const summing = (i: number) => (roundings(C) + rows) * F32_ROUNDING * sums[i]! + 1e-12;
        expectClose(await dWeight.readFloats(), expectedWeight.map((value, i) => value + before[i]!), summing);
        if (accumulate) return;
        const apart = await dx.read();
        rmsNormBackward(gradient, dWeight, gradient, padded(device, x, shape, padding), device.from(weight.data), epsilon);
        expectSame(await gradient.read(), apart);
      },
    );
    await fc.assert(property, RUNS);
  });

  test.each([256, 600, 2048, 4096, 4104, 4097])('rows of %i columns agree with the formula', async (C) => {
    const T = 9;
    const [x, dy, there, weight] = [T * C, T * C, T * C, C].map((size, seed) => normals(size, random(seed + C))) as [Float32Array, Float32Array, Float32Array, Float32Array];
    const epsilon = Math.fround(1e-5);
    const expected = Float64Array.from(there);
    const terms = Float64Array.from(there, Math.abs);
    const sums = new Float64Array(C);
    const sizes = new Float64Array(C);
    for (let start = 0; start < T * C; start += C) {
      const row = Float64Array.from(x.subarray(start, start + C));
      const r = 1 / Math.sqrt(dot(row, row) / C + epsilon);
      const products = dot(row, weight.map((value, i) => value * dy[start + i]!));
      backwardTerms(x.subarray(start, start + C), Float64Array.from(weight), epsilon, dy.subarray(start, start + C)).forEach((term, i) => (terms[start + i]! += term));
      for (let i = 0; i < C; i++) {
        expected[start + i]! += r * weight[i]! * dy[start + i]! - (row[i]! * r ** 3 * products) / C;
        sums[i]! += row[i]! * r * dy[start + i]!;
        sizes[i]! += Math.abs(row[i]! * r * dy[start + i]!);
      }
    }
    const dx = new Poisoned(device, 'f32', [T, C], 0);
    dx.view.write(there);
    const dWeight = device.tensor('f32', [C]);
    const copy = new Poisoned(device, 'bf16', [T, C], 0);
    rmsNormBackward(dx.view, dWeight, device.from(dy, [T, C]), device.from(x, [T, C]), device.from(weight), epsilon, true, copy.view);
    expectClose(await dx.read(), expected, (i) => roundings(C) * F32_ROUNDING * terms[i]!);
    expectSame(await copy.read(), bf16ToFloats(floatsToBf16(await dx.read())));
    expectClose(await dWeight.readFloats(), sums, (i) => (roundings(C) + T) * F32_ROUNDING * sizes[i]!);
  });

  test('sums the gradient of the weight over many rows, always in the same order', async () => {
    const [T, C] = [3000, 33];
    const [x, dy] = [normals(T * C, random(1)), normals(T * C, random(2))];
    const run = async () => {
      const dWeight = device.tensor('f32', [C]);
      rmsNormBackward(device.tensor('f32', [T, C]), dWeight, device.from(dy, [T, C]), device.from(x, [T, C]), device.from(new Float32Array(C).fill(2)), 0);
      return dWeight.readFloats();
    };
    const normed = naive(x, new Float32Array(C).fill(1), 0);
    const expected = new Float64Array(C);
    for (let i = 0; i < T * C; i++) expected[i % C]! += normed[i]! * dy[i]!;
    const first = await run();
    expectGradient(first, expected, 128);
    if (device.name === 'cpu') for (let i = 0; i < 3; i++) expectSame(await run(), first);
  });

  test('arguments are checked', () => {
    const f32 = (...shape: number[]) => device.tensor('f32', shape);
    const good: Parameters<typeof rmsNormBackward> = [f32(2, 4), f32(4), f32(2, 4), f32(2, 4), f32(4), 0, false];
    const refused = (index: number, value: unknown) => refusal(() => rmsNormBackward(...(good.with(index, value as never) as typeof good)));
    for (const index of [0, 2, 3]) {
      expect(refused(index, device.tensor('i32', [2, 4]))).toBe('DTYPE');
      expect(refused(index, f32(3, 4))).toBe('SHAPE');
      expect(refused(index, f32(2, 2, 2))).toBe('SHAPE');
      expect(refused(index, undefined)).toBe('INVALID_ARGUMENT');
    }
    expect(refused(1, f32(5))).toBe('SHAPE');
    expect(refused(1, device.tensor('bf16', [4]))).toBe('DTYPE');
    expect(refused(1, good[4])).toBe('INVALID_ARGUMENT');
    expect(refused(0, good[3])).toBe('INVALID_ARGUMENT');
    expect(refused(4, device.tensor('i32', [4]))).toBe('DTYPE');
    for (const epsilon of [-1, NaN, '0']) expect(refused(5, epsilon)).toBe('INVALID_ARGUMENT');
    expect(refused(6, 1)).toBe('INVALID_ARGUMENT');
  });
});
