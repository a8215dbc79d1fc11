import fc from 'fast-check';
import { columnSums, type Device, matmulInputGradient, matmulWeightGradient, packWeight } from '../../lib/ops.js';
import { normals, random } from '../support/device.js';
import {
  BF16_ROUNDING, expectClose, expectSame, F32_ROUNDING, floatTypes, inType, padded, paddings, Poisoned, productDevices, refusal, rowCounts, RUNS, seeds,
  testDevices,
} from '../support/operands.js';

const { abs } = Math; // Jest looks globals up slowly

/** A matrix by its elements' distances along its rows and columns. */
interface Matrix {
  data: Float32Array;
  strides: [number, number];
}

/** start + a [rows, depth] b [depth, columns], and by how much rounding may change it. */
function product(rows: number, columns: number, depth: number, a: Matrix, b: Matrix, start: Float32Array | null, rounding: number) {
  const expected = new Float64Array(rows * columns);
  const tolerance = new Float64Array(rows * columns);
  const [ai, ak] = a.strides;
  const [bk, bj] = b.strides;
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) {
      let sum = start ? start[i * columns + j]! : 0;
      let size = abs(sum);
      for (let k = 0; k < depth; k++) {
        const term = a.data[i * ai + k * ak]! * b.data[k * bk + j * bj]!;
        sum += term;
        size += abs(term);
      }
      expected[i * columns + j] = sum;
      tolerance[i * columns + j] = size * (rounding + (depth + 3) * F32_ROUNDING);
    }
  }
  return { expected, tolerance };
}

const widths = fc.oneof({ weight: 5, arbitrary: fc.integer({ min: 1, max: 140 }) }, fc.constantFrom(64, 210));
const longer = fc.oneof({ weight: 4, arbitrary: rowCounts }, fc.constantFrom(7, 193, 385));

/** On a GPU the tensor cores take bf16. */
const roundingOn = (device: Device, weight: 'f32' | 'bf16') => (device.precision === 'bf16' && weight === 'bf16' ? 2 * BF16_ROUNDING : 0);

describe.each(productDevices())('matmul_input_gradient on %s', (_, device) => {
  test('equals the sum in float64, also added to what is there', async () => {
    const property = fc.asyncProperty(longer, widths, widths, floatTypes, fc.boolean(), paddings, seeds, async (T, N, K, type, accumulate, padding, seed) => {
      const uniform = random(seed);
      const dy = normals(T * N, uniform);
      const weight = inType(normals(N * K, uniform), type);
      const before = normals(T * K, uniform);
      const dx = new Poisoned(device, 'f32', [T, K], padding);
      if (accumulate) dx.view.write(before);
      matmulInputGradient(dx.view, padded(device, dy, [T, N], padding), padded(device, weight.data, [N, K], (padding * 3) % 7), accumulate);
      const { expected, tolerance } = product(
        T, K, N, { data: dy, strides: [N, 1] }, { data: weight.values, strides: [K, 1] }, accumulate ? before : null, roundingOn(device, type),
      );
      expectClose(await dx.read(), expected, (i) => tolerance[i]!);
    });
    await fc.assert(property, RUNS);
  });
});

describe.each(testDevices())('matmul_input_gradient on %s', (_, device) => {
  test('is zero without outputs, unless it is added', async () => {
    const dx = device.from(Float32Array.of(1, 2, 3, 4), [2, 2]);
    matmulInputGradient(dx, device.tensor('f32', [2, 0]), device.tensor('f32', [0, 2]), true);
    expect(Array.from(await dx.read())).toEqual([1, 2, 3, 4]);
    matmulInputGradient(dx, device.tensor('f32', [2, 0]), device.tensor('f32', [0, 2]));
    expect(Array.from(await dx.read())).toEqual([0, 0, 0, 0]);
  });

  test('arguments are checked', () => {
    const f32 = (...shape: number[]) => device.tensor('f32', shape);
    const good: Parameters<typeof matmulInputGradient> = [f32(2, 4), f32(2, 3), f32(3, 4), false];
    const refused = (index: number, value: unknown) => refusal(() => matmulInputGradient(...(good.with(index, value as never) as typeof good)));
    expect(refused(0, device.tensor('i32', [2, 4]))).toBe('DTYPE');
    expect(refused(0, f32(2, 5))).toBe('SHAPE');
    expect(refused(1, f32(2, 4))).toBe('SHAPE');
    expect(refused(1, device.tensor('i32', [2, 3]))).toBe('DTYPE');
    expect(refused(2, f32(3, 5))).toBe('SHAPE');
    expect(refused(2, packWeight(f32(3, 4)))).toBe('DTYPE');
    expect(refused(3, 1)).toBe('INVALID_ARGUMENT');
    for (const index of [0, 1, 2]) expect(refused(index, undefined)).toBe('INVALID_ARGUMENT');
    const square = f32(3, 3);
    expect(refusal(() => matmulInputGradient(square, square, f32(3, 3)))).toBe('INVALID_ARGUMENT');
    expect(refusal(() => matmulInputGradient(square, f32(3, 3), square))).toBe('INVALID_ARGUMENT');
    if (device.name === 'cpu') expect(refused(0, device.tensor('bf16', [2, 4]))).toBe('DTYPE');
  });
});

describe.each(productDevices())('matmul_weight_gradient on %s', (_, device) => {
  test('adds the sum over all tokens', async () => {
    const property = fc.asyncProperty(longer, widths, widths, paddings, seeds, async (T, N, K, padding, seed) => {
      const uniform = random(seed);
      const [dy, x, before] = [normals(T * N, uniform), normals(T * K, uniform), normals(N * K, uniform)];
      const dWeight = new Poisoned(device, 'f32', [N, K], padding);
      dWeight.view.write(before);
      matmulWeightGradient(dWeight.view, padded(device, dy, [T, N], padding), padded(device, x, [T, K], (padding * 3) % 7));
      const { expected, tolerance } = product(N, K, T, { data: dy, strides: [1, N] }, { data: x, strides: [K, 1] }, before, 0);
      expectClose(await dWeight.read(), expected, (i) => tolerance[i]!);
    });
    await fc.assert(property, RUNS);
  });

  test('tokens in several calls give the same bits as all at once', async () => {
    if (device.name !== 'cpu') return; // a GPU sums in the order of its tiles
    const [T, N, K] = [700, 70, 90];
    const dy = device.from(normals(T * N, random(1)), [T, N]);
    const x = device.from(normals(T * K, random(2)), [T, K]);
    const [whole, pieces] = [device.tensor('f32', [N, K]), device.tensor('f32', [N, K])];
    matmulWeightGradient(whole, dy, x);
    for (const [start, end] of [[0, 1], [1, 300], [300, 700]] as const) matmulWeightGradient(pieces, dy.slice(0, start, end), x.slice(0, start, end));
    expectSame((await pieces.read()), (await whole.read()));
  });

  test('arguments are checked', () => {
    const f32 = (...shape: number[]) => device.tensor('f32', shape);
    const good: Parameters<typeof matmulWeightGradient> = [f32(3, 4), f32(2, 3), f32(2, 4)];
    const refused = (index: number, value: unknown) => refusal(() => matmulWeightGradient(...(good.with(index, value as never) as typeof good)));
    expect(refused(0, device.tensor('bf16', [3, 4]))).toBe('DTYPE');
    expect(refused(0, packWeight(f32(3, 4)))).toBe('DTYPE');
    expect(refused(0, f32(4, 4))).toBe('SHAPE');
    expect(refused(1, f32(3, 3))).toBe('SHAPE');
    expect(refused(2, f32(2, 5))).toBe('SHAPE');
    expect(refused(2, device.tensor('u8', [2, 4]))).toBe('DTYPE');
    for (const index of [0, 1, 2]) expect(refused(index, null)).toBe('INVALID_ARGUMENT');
    const square = f32(3, 3);
    expect(refusal(() => matmulWeightGradient(square, square, f32(3, 3)))).toBe('INVALID_ARGUMENT');
  });
});

describe.each(testDevices())('column_sums on %s', (_, device) => {
  test('adds the sum of the rows', async () => {
    const property = fc.asyncProperty(longer, widths, paddings, seeds, async (T, N, padding, seed) => {
      const uniform = random(seed);
      const [x, before] = [normals(T * N, uniform), normals(N, uniform)];
      const out = device.from(before);
      columnSums(out, padded(device, x, [T, N], padding));
      const { expected, tolerance } = product(1, N, T, { data: Float32Array.of(1), strides: [0, 0] }, { data: x, strides: [N, 1] }, before, 0);
      expectClose(await out.readFloats(), expected, (i) => tolerance[i]!);
    });
    await fc.assert(property, RUNS);
  });

  test('keeps its digits over many rows', async () => {
    const T = 300_000;
    const out = device.tensor('f32', [1]);
    columnSums(out, device.from(new Float32Array(T).fill(0.1), [T, 1]));
    const exact = T * Math.fround(0.1);
    expectClose(await out.readFloats(), [exact], () => exact * 1500 * F32_ROUNDING);
  });

  test('arguments are checked', () => {
    const x = device.tensor('f32', [2, 3]);
    expect(refusal(() => columnSums(device.tensor('f32', [2]), x))).toBe('SHAPE');
    expect(refusal(() => columnSums(device.tensor('bf16', [3]), x))).toBe('DTYPE');
    expect(refusal(() => columnSums(device.tensor('f32', [3]), device.tensor('i32', [2, 3])))).toBe('DTYPE');
    expect(refusal(() => columnSums(x.at(0), x))).toBe('INVALID_ARGUMENT');
    expect(refusal(() => columnSums(undefined as never, x))).toBe('INVALID_ARGUMENT');
  });
});
