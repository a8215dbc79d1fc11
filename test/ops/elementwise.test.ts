import fc from 'fast-check';
import { add, bf16ToFloats, copy, fill, floatsToBf16, siluMul, siluMulBackward, type Tensor } from '../../lib/ops.js';
import { normals, random } from '../support/device.js';
import { differences, expectGradient } from '../support/gradients.js';
import {
  columnCounts, expectClose, expectRounding, expectSame, F32_ROUNDING, floatTypes, inType, padded, paddings, Poisoned, refusal,
  rowCounts, RUNS, seeds, testDevices,
} from '../support/operands.js';

describe.each(testDevices())('silu_mul on %s', (_, device) => {
  test('agrees with float64, in place too', async () => {
    const property = fc.asyncProperty(rowCounts, columnCounts, paddings, seeds, async (T, F, padding, seed) => {
      const uniform = random(seed);
      const gate = normals(T * F, uniform, 10).map((value) => Math.max(-80, Math.min(80, value)));
      const up = normals(T * F, uniform);
      const expected = Float64Array.from(gate, (z, i) => (z / (1 + Math.exp(-z))) * up[i]!);
      const out = new Poisoned(device, 'f32', [T, F], padding);
      const gates = padded(device, gate, [T, F], (padding * 3) % 7);
      const ups = padded(device, up, [T, F], padding);
      siluMul(out.view, gates, ups);
      const apart = await out.read();
      // Two roundings in the exponential, one each for the sum, the division and the product, and one to spare.
      expectClose(apart, expected, (i) => 6 * F32_ROUNDING * Math.abs(expected[i]!));
      await expectRounding(device, [T, F], padding, (rounded) => siluMul(rounded, gates, ups));
      siluMul(gates, gates, ups);
      expectSame(await gates.read(), apart);
    });
    await fc.assert(property, RUNS);
  });

  test('has its limits at large gates, and keeps NaN', async () => {
    const out = device.tensor('f32', [1, 6]);
    siluMul(out, device.from(Float32Array.of(1e30, -1e30, 0, -0, NaN, 1), [1, 6]), device.from(Float32Array.of(1, 1, 5, 5, 0, NaN), [1, 6]));
    const [large, small, zero, negativeZero, ...nans] = await out.read();
    expect(large).toBeCloseTo(1e30, -24);
    expect([small, zero, negativeZero].every((value) => value === 0)).toBe(true);
    expect(nans).toEqual([NaN, NaN]);
  });

  test('arguments are checked', () => {
    const x = device.tensor('f32', [2, 4]);
    const other = device.tensor('f32', [2, 5]);
    expect(refusal(() => siluMul(device.tensor('i32', [2, 4]), x, x))).toBe('DTYPE');
    expect(refusal(() => siluMul(x, device.tensor('bf16', [2, 4]), x))).toBe('DTYPE');
    expect(refusal(() => siluMul(x, x, device.tensor('bf16', [2, 4])))).toBe('DTYPE');
    expect(refusal(() => siluMul(other, x, x))).toBe('SHAPE');
    expect(refusal(() => siluMul(x, other, x))).toBe('SHAPE');
    expect(refusal(() => siluMul(x, x, other))).toBe('SHAPE');
  });
});

describe.each(testDevices())('silu_mul_backward on %s', (_, device) => {
  test('agrees with differences, in place too', async () => {
    const property = fc.asyncProperty(rowCounts, columnCounts, paddings, seeds, async (T, F, padding, seed) => {
      const uniform = random(seed);
      const gate = normals(T * F, uniform, 5).map((value) => Math.max(-60, Math.min(60, value)));
      const [up, dy] = [normals(T * F, uniform), normals(T * F, uniform)];
      const forward = (z: number, factor: number) => (z / (1 + Math.exp(-z))) * factor;
      const [dGate, dUp] = [new Poisoned(device, 'f32', [T, F], padding), new Poisoned(device, 'f32', [T, F], padding)];
      const inputs = [dy, gate, up].map((values) => padded(device, values, [T, F], padding)) as [Tensor, Tensor, Tensor];
      const activated = new Poisoned(device, 'f32', [T, F], padding);
      siluMulBackward(dGate.view, dUp.view, ...inputs, activated.view);
      const [gates, ups] = [await dGate.read(), await dUp.read()];
      const output = Float64Array.from(gate, (z, i) => forward(z, up[i]!));
      expectClose(await activated.read(), output, (i) => 8 * F32_ROUNDING * Math.abs(output[i]!) + 1e-30);
      const sample = Array.from({ length: Math.min(T * F, 50) }, () => Math.floor(uniform() * T * F));
      const [z, factor] = [Float64Array.from(sample, (i) => gate[i]!), Float64Array.from(sample, (i) => up[i]!)];
      const loss = () => sample.reduce((sum, i, n) => sum + dy[i]! * forward(z[n]!, factor[n]!), 0);
      expectGradient(sample.map((i) => gates[i]!), differences(loss, z), 128);
      expectGradient(sample.map((i) => ups[i]!), differences(loss, factor), 64);
      siluMulBackward(inputs[1], inputs[2], ...inputs, inputs[0]);
      expectSame(await inputs[1].read(), gates);
      expectSame(await inputs[2].read(), ups);
      expectSame(await inputs[0].read(), await activated.read());
    });
    await fc.assert(property, RUNS);
  });

  test('has its limits at large gates, and keeps NaN', async () => {
    const [dGate, dUp] = [device.tensor('f32', [1, 4]), device.tensor('f32', [1, 4])];
    const row = (...values: number[]) => device.from(Float32Array.from(values), [1, 4]);
    siluMulBackward(dGate, dUp, row(2, 2, 2, NaN), row(1e4, -1e4, NaN, 1), row(3, 3, 3, 3));
    expect(Array.from(await dGate.read(), (value) => value + 0)).toEqual([6, 0, NaN, NaN]);
    expect(Array.from(await dUp.read(), (value) => value + 0)).toEqual([2e4, 0, NaN, NaN]);
  });

  test('arguments are checked', () => {
    const f32 = (...shape: number[]) => device.tensor('f32', shape);
    const good: Parameters<typeof siluMulBackward> = [f32(2, 4), f32(2, 4), f32(2, 4), f32(2, 4), f32(2, 4), f32(2, 4)];
    expect(refusal(() => siluMulBackward(...(good.with(5, good[0]) as typeof good)))).toBe('INVALID_ARGUMENT');
    for (let index = 0; index < 6; index++) {
      const refused = (value: unknown) => refusal(() => siluMulBackward(...(good.with(index, value as never) as typeof good)));
      expect(refused(device.tensor('bf16', [2, 4]))).toBe('DTYPE');
      expect(refused(f32(2, 5))).toBe('SHAPE');
      if (index < 5) expect(refused(undefined)).toBe('INVALID_ARGUMENT');
    }
  });
});

describe.each(testDevices())('add on %s', (_, device) => {
  test('is the rounded sum, in place on either side', async () => {
    const property = fc.asyncProperty(rowCounts, columnCounts, paddings, seeds, async (T, C, padding, seed) => {
      const uniform = random(seed);
      const [left, right] = [normals(T * C, uniform, 100), normals(T * C, uniform)];
      left[0] = NaN;
      const expected = left.map((value, i) => value + right[i]!);
      const a = padded(device, left, [T, C], padding);
      const b = padded(device, right, [T, C], (padding * 3) % 7);
      const out = new Poisoned(device, 'f32', [T, C], padding);
      add(out.view, a, b);
      expectSame(await out.read(), expected);
      add(b, a, b);
      expectSame(await b.read(), expected);
      b.write(right);
      add(a, a, b);
      expectSame(await a.read(), expected);
    });
    await fc.assert(property, RUNS);
  });

  test('arguments are checked', () => {
    const x = device.tensor('f32', [2, 4]);
    expect(refusal(() => add(device.tensor('bf16', [2, 4]), x, x))).toBe('DTYPE');
    expect(refusal(() => add(x, device.tensor('u8', [2, 4]), x))).toBe('DTYPE');
    expect(refusal(() => add(x, x, device.tensor('i32', [2, 4])))).toBe('DTYPE');
    expect(refusal(() => add(x, device.tensor('f32', [1, 4]), x))).toBe('SHAPE');
    expect(refusal(() => add(x, x, device.tensor('f32', [2, 3])))).toBe('SHAPE');
    expect(refusal(() => add(device.tensor('f32', [8]), x, x))).toBe('SHAPE');
  });
});

describe.each(testDevices())('copy on %s', (_, device) => {
  const shapes = fc.oneof(
    fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 4 }),
    fc.constantFrom([40000], [200, 130], [3, 20000], [20000, 1], [1, 1, 1, 1], [7, 1, 5, 40]),
  );

  test('moves and rounds f32 and bf16 between any strides', async () => {
    const property = fc.asyncProperty(shapes, floatTypes, floatTypes, paddings, paddings, seeds, async (shape, from, to, near, far, seed) => {
      const size = shape.reduce((product, extent) => product * extent, 1);
      const source = inType(normals(size, random(seed)), from);
      const out = new Poisoned(device, to, shape, near);
      copy(out.view, padded(device, source.data, shape, far));
      expectSame(await out.read(), inType(source.values, to).values);
    });
    await fc.assert(property, RUNS);
  });

  test('rounds to nearest even and keeps infinity and NaN', async () => {
    const words = Uint32Array.of(0x3f808000, 0x3f818000, 0x3f808001, 0x7f7fffff, 0x7f800000, 0xff800000, 0x7f800001, 0xffffffff, 0x00000001, 0x80000000);
    const values = new Float32Array(words.buffer);
    const out = device.tensor('bf16', [words.length]);
    copy(out, device.from(values, [words.length]));
    const bits = (await out.read()) as Uint16Array;
    expect(Array.from(bits.slice(0, 6))).toEqual([0x3f80, 0x3f82, 0x3f81, 0x7f80, 0x7f80, 0xff80]);
    expect(Array.from(bf16ToFloats(bits.slice(6)))).toEqual([NaN, NaN, 0, -0]);
    expect(Array.from(bits.slice(0, 6))).toEqual(Array.from(floatsToBf16(values).slice(0, 6)));
  });

  test('takes permuted outer dimensions', async () => {
    const [A, B, C] = [3, 4, 5];
    const x = device.from(Float32Array.from({ length: A * B * C }, (_, i) => i), [A, B, C]);
    const out = device.tensor('f32', [B, A, C]);
    copy(out, x.view([B, A, C], [C, B * C, 1], 0));
    const expected = Array.from({ length: B * A * C }, (_, i) => {
      const [b, a, c] = [Math.floor(i / (A * C)), Math.floor(i / C) % A, i % C];
      return (a * B + b) * C + c;
    });
    expect(Array.from(await out.read())).toEqual(expected);
  });

  test('copies integers and bytes as they are', async () => {
    const integers = Int32Array.of(-2147483648, -1, 0, 2147483647, 16777217, 5);
    const out = device.tensor('i32', [2, 3]);
    copy(out, padded(device, integers, [2, 3], 2));
    expect(await out.read()).toEqual(integers);
    const bytes = Uint8Array.from({ length: 99 }, (_, i) => i * 3);
    const flat = device.tensor('u8', [99]);
    copy(flat, device.from(bytes));
    expect(await flat.read()).toEqual(bytes);
  });

  test('arguments are checked', () => {
    const x = device.tensor('f32', [2, 4]);
    expect(refusal(() => copy(x, device.tensor('i32', [2, 4])))).toBe('DTYPE');
    expect(refusal(() => copy(device.tensor('u8', [2, 4]), x))).toBe('DTYPE');
    expect(refusal(() => copy(device.tensor('i32', [2, 4]), device.tensor('u8', [2, 4])))).toBe('DTYPE');
    expect(refusal(() => copy(x, device.tensor('f32', [4, 2])))).toBe('SHAPE');
    expect(refusal(() => copy(x, device.tensor('f32', [8])))).toBe('SHAPE');
    expect(refusal(() => copy(null as never, x))).toBe('INVALID_ARGUMENT');
  });
});

describe.each(testDevices())('fill on %s', (_, device) => {
  test('sets every element of any view, and nothing beside it', async () => {
    const shapes = fc.oneof(fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 4 }), fc.constantFrom([40000], [3, 20000]));
    const property = fc.asyncProperty(shapes, floatTypes, paddings, async (shape, dtype, padding) => {
      const out = new Poisoned(device, dtype, shape, padding);
      fill(out.view, -2.5);
      expect((await out.read()).every((value) => value === -2.5)).toBe(true);
    });
    await fc.assert(property, RUNS);
  });

  test('arguments are checked', () => {
    expect(refusal(() => fill(device.tensor('i32', [2]), 0))).toBe('DTYPE');
    expect(refusal(() => fill(device.tensor('f32', [2]), NaN))).toBe('INVALID_ARGUMENT');
    expect(refusal(() => fill(null as never, 0))).toBe('INVALID_ARGUMENT');
  });
});
