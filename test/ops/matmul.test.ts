import fc from 'fast-check';
import { type Device, matmul, packWeight, type Tensor } from '../../lib/ops.js';
import { normals, random } from '../support/device.js';
import { expectClose, expectSame, F32_ROUNDING, floatTypes, inType, padded, paddings, Poisoned, productDevices, refusal, rowCounts, RUNS, seeds, testDevices } from '../support/operands.js';

/** Half the distance of 1 to the next bf16. */
const BF16_ROUNDING = 2 ** -8;

interface Case {
  rows: number;
  /** Rows of the weights that are stacked. */
  stack: number[];
  depth: number;
  dtype: 'f32' | 'bf16';
  bias: 'none' | 'f32' | 'bf16';
  packed: boolean;
  padding: number;
  /** The type of x; bf16 where the device takes it. */
  input: 'f32' | 'bf16';
  /** What is added: what the output holds, or another matrix. */
  base: 'none' | 'out' | 'other';
}

const cases: fc.Arbitrary<Case> = fc.record({
  rows: fc.oneof({ weight: 3, arbitrary: rowCounts }, fc.constantFrom(7, 8, 9, 16, 17)),
  stack: fc.array(fc.oneof({ weight: 4, arbitrary: fc.integer({ min: 1, max: 70 }) }, fc.constant(300)), { minLength: 1, maxLength: 4 }),
  depth: fc.oneof({ weight: 4, arbitrary: fc.integer({ min: 1, max: 130 }) }, fc.constantFrom(256, 515, 512, 1024)),
  dtype: floatTypes,
  bias: fc.constantFrom('none' as const, 'f32' as const, 'bf16' as const),
  packed: fc.boolean(),
  padding: paddings,
  input: floatTypes,
  base: fc.constantFrom('none' as const, 'out' as const, 'other' as const),
});

/** The product, added to `before`, and for every element by how much rounding may change it. */
function reference(
  before: Float32Array, x: Float32Array, weight: Float32Array, bias: Float32Array | null, { rows, depth }: Case, rounding: number,
) {
  const columns = weight.length / depth;
  const out = new Float64Array(rows * columns);
  const tolerance = new Float64Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const at = row * columns + column;
      let sum = 0;
      let size = Math.abs(before[at]!);
      for (let k = 0; k < depth; k++) {
        const product = x[row * depth + k]! * weight[column * depth + k]!;
        sum += product;
        size += Math.abs(product);
      }
      out[at] = before[at]! + sum + (bias ? bias[column]! : 0);
      // One rounding for every product and sum at worst; in truth they cancel.
      tolerance[at] = size * (rounding + (depth + 3) * F32_ROUNDING) + Math.abs(out[at]!) * 2 * F32_ROUNDING;
    }
  }
  return { out, tolerance };
}

async function check(device: Device, given: Case, seed: number): Promise<void> {
  const { rows, stack, depth, dtype, bias, packed, padding, base } = given;
  const uniform = random(seed);
  const columns = packed ? stack.reduce((sum, count) => sum + count, 0) : stack[0]!;
  const x = inType(normals(rows * depth, uniform), device.name === 'cpu' ? 'f32' : given.input);
  const weight = inType(normals(columns * depth, uniform), dtype);
  const biases = bias === 'none' ? null : inType(normals(columns, uniform), bias);
  const view = padded(device, x.data, [rows, depth], padding);
  const whole = padded(device, weight.data, [columns, depth], padding);
  const operand = packed ? packWeight(...parts(whole, stack)) : whole;
  const out = new Poisoned(device, 'f32', [rows, columns], padding);
  const before = base === 'none' ? new Float32Array(rows * columns) : normals(rows * columns, uniform, 3);
  if (base === 'out') out.view.write(before);
  const other = padded(device, before, [rows, columns], (padding * 3) % 7);
  matmul(out.view, view, operand, biases && device.from(biases.data), base === 'other' ? other : base === 'out');
  if (base === 'other') expectSame(await other.read(), before);
  // The tensor cores of a GPU take x as bf16 to bf16 weights.
  const rounding = device.precision === 'bf16' && dtype === 'bf16' ? BF16_ROUNDING : 0;
  const expected = reference(before, x.values, weight.values, biases && biases.values, given, rounding);
  expectClose(await out.read(), expected.out, (i) => expected.tolerance[i]!);
}

function parts(whole: Tensor, stack: readonly number[]): Tensor[] {
  let start = 0;
  return stack.map((count) => whole.slice(0, start, (start += count)));
}

describe.each(productDevices())('matmul on %s', (_, device) => {
  test('equals the sum in float64, plain or packed, with and without a bias, alone or added', async () => {
    await fc.assert(fc.asyncProperty(cases, seeds, (given, seed) => check(device, given, seed)), RUNS);
  });
});

describe.each(testDevices())('matmul on %s', (_, device) => {
  test('what is next to a row does not change it', async () => {
    if (device.name !== 'cpu') return; // a GPU library chooses its order of sums by the size of the whole
    const [depth, columns] = [200, 90];
    const weight = packWeight(device.from(normals(columns * depth, random(1)), [columns, depth]));
    const x = normals(33 * depth, random(2));
    const before = normals(33 * columns, random(3));
    for (const accumulate of [false, true]) {
      const product = async (rows: number) => {
        const out = device.from(before.subarray(0, rows * columns), [rows, columns]);
        matmul(out, device.from(x.subarray(0, rows * depth), [rows, depth]), weight, null, accumulate);
        return (await out.read()) as Float32Array;
      };
      const all = await product(33);
      for (const rows of [1, 2, 5, 16]) expectSame(await product(rows), all.subarray(0, rows * columns));
    }
  });

  test('many rows give the same with a plain weight and with a packed one', async () => {
    const [rows, columns, depth] = [400, 90, 201];
    const x = device.from(normals(rows * depth, random(1)), [rows, depth]);
    for (const dtype of ['f32', 'bf16'] as const) {
      const weight = padded(device, inType(normals(columns * depth, random(2)), dtype).data, [columns, depth], 3);
      const [plain, packed] = [device.tensor('f32', [rows, columns]), device.tensor('f32', [rows, columns])];
      matmul(plain, x, weight);
      matmul(packed, x, packWeight(weight));
      expectSame(await plain.readFloats(), await packed.readFloats());
    }
  });

  test('with few rows neither does a GPU', async () => {
    if (device.name === 'cpu') return; // see above
    const [depth, columns] = [1536, 300];
    const weight = packWeight(device.from(inType(normals(columns * depth, random(1)), 'bf16').data, [columns, depth]));
    const x = inType(normals(16 * depth, random(2)), 'bf16').data as Uint16Array;
    const product = async (first: number, rows: number) => {
      const out = device.tensor('f32', [rows, columns]);
      matmul(out, device.from(x.subarray(first * depth, (first + rows) * depth), [rows, depth]), weight);
      return (await out.read()) as Float32Array;
    };
    const all = await product(0, 16);
    for (const [first, rows] of [[0, 1], [15, 1], [3, 9]] as const) {
      expectSame(await product(first, rows), all.subarray(first * columns, (first + rows) * columns));
    }
  });

  test('infinities and NaN come through, and only where they belong', async () => {
    for (const dtype of ['f32', 'bf16'] as const) {
      const x = device.from(Float32Array.of(1, 2, Infinity, 1, NaN, 0), [3, 2]);
      const weight = device.from(inType(Float32Array.of(1, 1, -1, 2), dtype).data, [2, 2]);
      const out = device.tensor('f32', [3, 2]);
      matmul(out, x, weight);
      const [a, b, c, d, e, f] = await out.readFloats();
      expect([a, b]).toEqual([3, 3]);
      expect([c, d]).toEqual([Infinity, -Infinity]);
      expect([e, f]).toEqual([NaN, NaN]);
    }
  });

  test('nothing to add up, nothing to compute', async () => {
    const bias = device.from(Float32Array.of(4, 5));
    const out = device.from(new Float32Array(4).fill(NaN), [2, 2]);
    matmul(out, device.tensor('f32', [2, 0]), device.tensor('f32', [2, 0]), bias);
    expect(Array.from(await out.read())).toEqual([4, 5, 4, 5]);
    matmul(out, device.tensor('f32', [2, 0]), device.tensor('f32', [2, 0]), null, true);
    expect(Array.from(await out.read())).toEqual([4, 5, 4, 5]);
    matmul(out, device.tensor('f32', [2, 0]), device.tensor('f32', [2, 0]), bias, true);
    expect(Array.from(await out.read())).toEqual([8, 10, 8, 10]);
    matmul(out, device.tensor('f32', [2, 0]), device.tensor('bf16', [2, 0]));
    expect(Array.from(await out.read())).toEqual([0, 0, 0, 0]);
    matmul(device.tensor('f32', [0, 2]), device.tensor('f32', [0, 3]), device.tensor('f32', [2, 3]));
    await device.synchronize();
  });

  test('arguments are checked', () => {
    const f32 = (...shape: number[]) => device.tensor('f32', shape);
    const good: Parameters<typeof matmul> = [f32(2, 3), f32(2, 4), f32(3, 4), f32(3)];
    const refused = (index: number, value: unknown) => {
      const args = [...good];
      args[index] = value as never;
      return refusal(() => matmul(...(args as typeof good)));
    };
    expect(refused(0, f32(2, 4))).toBe('SHAPE');
    expect(refused(0, device.tensor('bf16', [2, 3]))).toBe(device.name === 'cpu' ? 'DTYPE' : 'no error');
    expect(refused(0, device.tensor('i32', [2, 3]))).toBe('DTYPE');
    expect(refused(0, packWeight(f32(2, 3)))).toBe('DTYPE');
    expect(refused(1, device.tensor('bf16', [2, 4]))).toBe(device.name === 'cpu' ? 'DTYPE' : 'no error');
    expect(refused(1, f32(2, 5))).toBe('SHAPE');
    expect(refused(4, 1)).toBe('INVALID_ARGUMENT');
    expect(refused(4, f32(2, 4))).toBe('SHAPE');
    expect(refused(4, device.tensor('bf16', [2, 3]))).toBe('DTYPE');
    const rows = f32(3, 3);
    expect(refusal(() => matmul(rows.slice(0, 0, 2), f32(2, 4), f32(3, 4), null, rows.slice(0, 1, 3)))).toBe('INVALID_ARGUMENT');
    expect(refused(1, f32(2))).toBe('SHAPE');
    expect(refused(2, device.tensor('i32', [3, 4]))).toBe('DTYPE');
    expect(refused(2, f32(4, 4))).toBe('SHAPE');
    expect(refused(3, f32(2))).toBe('SHAPE');
    expect(refused(1, undefined)).toBe('INVALID_ARGUMENT');
    const square = f32(3, 3);
    expect(refusal(() => matmul(square, square, f32(3, 3)))).toBe('INVALID_ARGUMENT');
    expect(refusal(() => packWeight())).toBe('INVALID_ARGUMENT');
    expect(refusal(() => packWeight(f32(2, 3), f32(2, 4)))).toBe('SHAPE');
    expect(refusal(() => packWeight(f32(2, 3), device.tensor('bf16', [2, 3])))).toBe('DTYPE');
    expect(refusal(() => packWeight(f32(2)))).toBe('INVALID_ARGUMENT');
  });
});
