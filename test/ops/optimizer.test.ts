import fc from 'fast-check';
import { adamW, clipFactor, floatsToBf16, squaredNorm, type Tensor } from '../../lib/ops.js';
import { normals, random } from '../support/device.js';
import { expectClose, expectSame, F32_ROUNDING, padded, paddings, Poisoned, refusal, RUNS, seeds, testDevices } from '../support/operands.js';

const NUMBERS = { learningRate: 0.01, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0.1, step: 1 };
const rows = fc.integer({ min: 1, max: 3 });
const sizes = fc.oneof({ weight: 4, arbitrary: fc.integer({ min: 1, max: 200 }) }, fc.constantFrom(8192, 20_000));

describe.each(testDevices())('adam_w on %s', (_, device) => {
  test('follows its equations over several steps, with a copy in bf16', async () => {
    const property = fc.asyncProperty(rows, sizes, paddings, fc.boolean(), seeds, async (R, columns, padding, copied, seed) => {
      const uniform = random(seed);
      const N = R * columns;
      const start = normals(N, uniform);
      const [parameter, momentum, variance] = [start, new Float32Array(N), new Float32Array(N)].map((data) => {
        const tensor = new Poisoned(device, 'f32', [R, columns], padding);
        tensor.view.write(data);
        return tensor;
      }) as [Poisoned, Poisoned, Poisoned];
      const copy = copied ? new Poisoned(device, 'bf16', [R, columns], padding) : null;
      const factor = device.from(Float32Array.of(0.5));
      const expected = { p: Float64Array.from(start), m: new Float64Array(N), v: new Float64Array(N) };
      for (let step = 1; step <= 3; step++) {
        const gradient = normals(N, uniform, 10 ** (step - 2));
        const numbers = { ...NUMBERS, step };
        adamW(parameter.view, momentum.view, variance.view, copy && copy.view, padded(device, gradient, [R, columns], padding), factor, numbers);
        const { learningRate, beta1, beta2, epsilon, weightDecay } = numbers;
        for (let i = 0; i < N; i++) {
          const g = 0.5 * gradient[i]!;
          expected.m[i] = beta1 * expected.m[i]! + (1 - beta1) * g;
          expected.v[i] = beta2 * expected.v[i]! + (1 - beta2) * g * g;
          expected.p[i]! -= learningRate * weightDecay * expected.p[i]!;
          expected.p[i]! -= (learningRate * (expected.m[i]! / (1 - beta1 ** step))) / (Math.sqrt(expected.v[i]! / (1 - beta2 ** step)) + epsilon);
        }
      }
      // 1 - 0.95 and 1 - 0.95^step lose two digits of the rounded 0.95.
      expectClose(await momentum.read(), expected.m, (i) => 64 * F32_ROUNDING * (Math.abs(expected.m[i]!) + 0.1));
      expectClose(await variance.read(), expected.v, (i) => 64 * F32_ROUNDING * expected.v[i]!);
      const values = await parameter.read();
      expectClose(values, expected.p, (i) => 8 * F32_ROUNDING * Math.abs(expected.p[i]!) + 3 * NUMBERS.learningRate * 128 * F32_ROUNDING);
      if (copy) expectSame(floatsToBf16(await copy.read()), floatsToBf16(values));
    });
    await fc.assert(property, RUNS);
  });

  test('many rows in one call give what each gives alone, bit for bit', async () => {
    const property = fc.asyncProperty(rows, sizes, paddings, seeds, async (R, N, padding, seed) => {
      const uniform = random(seed);
      const data = Array.from({ length: 4 }, (_, index) => normals(R * N, uniform).map((x) => (index === 2 ? x * x : x)));
      const factor = device.from(Float32Array.of(0.3));
      const [together, alone] = [0, 1].map(() => data.map((values) => padded(device, values, [R, N], padding))) as [Tensor[], Tensor[]];
      const update = ([parameter, momentum, variance, gradient]: Tensor[]) =>
        adamW(parameter!, momentum!, variance!, null, gradient!, factor, { ...NUMBERS, step: 3 });
      update(together);
      for (let row = 0; row < R; row++) update(alone.map((tensor) => tensor.slice(0, row, row + 1)));
      for (let index = 0; index < 3; index++) expectSame(await together[index]!.readFloats(), await alone[index]!.readFloats());
    });
    await fc.assert(property, RUNS);
  });

  test('where the factor is not finite nothing is changed', async () => {
    for (const bad of [NaN, Infinity]) {
      const all = [1, 2, 3].map((value) => device.from(new Float32Array(5).fill(value), [1, 5]));
      const copy = device.tensor('bf16', [1, 5]);
      adamW(all[0]!, all[1]!, all[2]!, copy, device.from(new Float32Array(5).fill(1), [1, 5]), device.from(Float32Array.of(bad)), NUMBERS);
      for (const [index, tensor] of all.entries()) expect(Array.from(await tensor.read())).toEqual(new Array(5).fill(index + 1));
      expect(Array.from(await copy.read())).toEqual(new Array(5).fill(0));
    }
  });

  test('a weight without gradient only decays', async () => {
    const parameter = device.from(Float32Array.of(2, 0), [1, 2]);
    const zeros = () => device.tensor('f32', [1, 2]);
    adamW(parameter, zeros(), zeros(), null, zeros(), device.from(Float32Array.of(1)), NUMBERS);
    expectClose(await parameter.readFloats(), [2 * (1 - 0.01 * 0.1), 0], () => 2 * F32_ROUNDING);
  });

  test('arguments are checked', () => {
    const f32 = (...shape: number[]) => device.tensor('f32', shape);
    const good: Parameters<typeof adamW> = [f32(2, 4), f32(2, 4), f32(2, 4), device.tensor('bf16', [2, 4]), f32(2, 4), f32(1), NUMBERS];
    const refused = (index: number, value: unknown) => refusal(() => adamW(...(good.with(index, value as never) as typeof good)));
    for (const index of [0, 1, 2, 4]) {
      for (const shape of [[2, 5], [3, 4], [8], [1, 2, 4]]) expect(refused(index, f32(...shape))).toBe('SHAPE');
      expect(refused(index, device.tensor('bf16', [2, 4]))).toBe('DTYPE');
      expect(refused(index, undefined)).toBe('INVALID_ARGUMENT');
    }
    expect(refused(1, good[0])).toBe('INVALID_ARGUMENT');
    expect(refused(3, f32(2, 4))).toBe('DTYPE');
    expect(refused(5, f32(2))).toBe('SHAPE');
    const tall = () => f32(65_536, 1);
    expect(refusal(() => adamW(tall(), tall(), tall(), null, tall(), f32(1), NUMBERS))).toBe('SHAPE');
    for (const wrong of [
      { learningRate: -1 }, { learningRate: NaN }, { beta1: 1 }, { beta2: -0.1 }, { epsilon: -1 }, { weightDecay: -1 }, { step: 0 }, { step: 1.5 },
    ]) expect(refused(6, { ...NUMBERS, ...wrong })).toBe('INVALID_ARGUMENT');
  });
});

describe.each(testDevices())('squared_norm on %s', (_, device) => {
  test('adds the sums of squares, each row as if it were alone', async () => {
    const property = fc.asyncProperty(rows, fc.oneof({ weight: 5, arbitrary: sizes }, fc.constantFrom(0, 60_000)), paddings, seeds, async (R, N, padding, seed) => {
      const data = normals(R * N, random(seed));
      const x = padded(device, data, [R, N], padding);
      const [out, alone] = [0, 1].map(() => padded(device, Float32Array.from({ length: R }, (_, row) => row), [R])) as [Tensor, Tensor];
      squaredNorm(out, x);
      for (let row = 0; row < R; row++) squaredNorm(alone.slice(0, row, row + 1), x.slice(0, row, row + 1));
      const expected = Float64Array.from({ length: R }, (_, row) => data.subarray(row * N, (row + 1) * N).reduce((sum, value) => sum + value * value, row));
      const sums = await out.readFloats();
      expectClose(sums, expected, (row) => expected[row]! * (16 + 8 * Math.sqrt(N)) * F32_ROUNDING);
      expectSame(sums, await alone.readFloats());
    });
    await fc.assert(property, RUNS);
  });

  test('tells NaN and overflow', async () => {
    const out = device.tensor('f32', [3]);
    squaredNorm(out, device.from(Float32Array.of(1, NaN, 1, 1e30, 1, 2), [3, 2]));
    expect(Array.from(await out.read())).toEqual([NaN, Infinity, 5]);
  });

  test('arguments are checked', () => {
    const f32 = (...shape: number[]) => device.tensor('f32', shape);
    expect(refusal(() => squaredNorm(f32(3), f32(2, 4)))).toBe('SHAPE');
    expect(refusal(() => squaredNorm(f32(4), f32(4)))).toBe('SHAPE');
    expect(refusal(() => squaredNorm(f32(65_536), f32(65_536, 1)))).toBe('SHAPE');
    expect(refusal(() => squaredNorm(device.tensor('i32', [2]), f32(2, 4)))).toBe('DTYPE');
    expect(refusal(() => squaredNorm(f32(2), device.tensor('bf16', [2, 4])))).toBe('DTYPE');
    expect(refusal(() => squaredNorm(f32(2), null as never))).toBe('INVALID_ARGUMENT');
  });
});

describe.each(testDevices())('clip_factor on %s', (_, device) => {
  const run = async (squares: number[], scale: number, limit: number) => {
    const [factor, norm] = [device.tensor('f32', [1]), device.tensor('f32', [1])];
    clipFactor(factor, norm, device.from(Float32Array.from(squares)), scale, limit);
    return [(await factor.read())[0]!, (await norm.read())[0]!];
  };

  test('scales a norm that is too large down to the limit, and leaves others', async () => {
    expectClose(await run([9, 16], 1, 1), [0.2, 5], (i) => [0.2, 5][i]! * 4 * F32_ROUNDING);
    expectClose(await run([9, 16], 0.5, 10), [0.5, 2.5], (i) => [0.5, 2.5][i]! * 4 * F32_ROUNDING);
    expectClose(await run([9, 16], 0.5, 1), [0.2, 2.5], (i) => [0.2, 2.5][i]! * 4 * F32_ROUNDING);
    expect(await run([0], 1, 1)).toEqual([1, 0]);
  });

  test('a norm that is not finite makes the factor NaN', async () => {
    expect(await run([1, NaN], 1, 1)).toEqual([NaN, NaN]);
    expect(await run([Infinity], 1, 1)).toEqual([NaN, Infinity]);
  });

  test('arguments are checked', () => {
    const f32 = (...shape: number[]) => device.tensor('f32', shape);
    const good: Parameters<typeof clipFactor> = [f32(1), f32(1), f32(3), 1, 1];
    const refused = (index: number, value: unknown) => refusal(() => clipFactor(...(good.with(index, value as never) as typeof good)));
    for (const index of [0, 1, 2]) {
      expect(refused(index, device.tensor('bf16', [1]))).toBe('DTYPE');
      expect(refused(index, undefined)).toBe('INVALID_ARGUMENT');
    }
    expect(refused(0, f32(2))).toBe('SHAPE');
    expect(refused(1, f32(2))).toBe('SHAPE');
    expect(refused(1, good[0])).toBe('INVALID_ARGUMENT');
    for (const bad of [0, -1, NaN]) {
      expect(refused(3, bad)).toBe('INVALID_ARGUMENT');
      expect(refused(4, bad)).toBe('INVALID_ARGUMENT');
    }
  });
});
