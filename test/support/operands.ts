// Operands for the operation tests: strided, surrounded by NaN, and checked against loops in float64.
import fc from 'fast-check';
import {
  bf16ToFloats, type Device, type DType, floatsToBf16, openDevice, SpkvError, type Tensor, type TensorData,
} from '../../lib/ops.js';
import { testDevice } from './device.js';

/** Half the distance of 1 to the next number: the largest relative error of one rounding. */
export const F32_ROUNDING = 2 ** -24;
export const BF16_ROUNDING = 2 ** -8;

/** The test device: on the CPU once per instruction set that this processor has, with two threads; on a GPU once per precision. */
export function testDevices(): [string, Device][] {
  const name = process.env['SPKV_TEST_DEVICE'] ?? 'cpu';
  if (name !== 'cpu') return (['bf16', 'f32'] as const).map((precision) => [`${name}, ${precision}`, testDevice({}, precision)]);
  return (['avx512', 'avx2', 'portable'] as const).flatMap((instructions): [string, Device][] => {
    try {
      return [[`cpu, ${instructions}`, openDevice('cpu', { instructions, threads: 2, pin: false })]];
    } catch (error) {
      if (error instanceof SpkvError && error.code === 'DEVICE') return [];
      throw error;
    }
  });
}

/** For matrix products, on a GPU also once with those timed. */
export function productDevices(): [string, Device][] {
  const name = process.env['SPKV_TEST_DEVICE'] ?? 'cpu';
  return name === 'cpu' ? testDevices() : [...testDevices(), [`${name}, bf16, timed`, openDevice(name, { timeProducts: true })]];
}

/** How many runs a property with random shapes gets. */
export const RUNS = { numRuns: 25 };

export const seeds = fc.integer({ min: 0, max: 2 ** 32 - 1 });
/** Distance of a row's end to the next row's start: rows of views lie apart. */
export const paddings = fc.integer({ min: 0, max: 5 });
/** Row counts: mostly few, sometimes enough to be split over threads. */
export const rowCounts = fc.oneof({ weight: 5, arbitrary: fc.integer({ min: 1, max: 6 }) }, fc.constant(300));
/** Column counts on both sides of every vector width. */
export const columnCounts = fc.integer({ min: 1, max: 130 });
export const floatTypes = fc.constantFrom('f32' as const, 'bf16' as const);

function poison(dtype: DType, count: number): TensorData {
  if (dtype === 'f32') return new Float32Array(count).fill(NaN);
  if (dtype === 'bf16') return new Uint16Array(count).fill(0x7fc0);
  return dtype === 'i32' ? new Int32Array(count).fill(-1) : new Uint8Array(count).fill(255);
}

/** A tensor whose rows lie `padding` elements apart, all NaN (or -1), the elements between the rows too. */
export class Poisoned {
  readonly view: Tensor;
  readonly #whole: Tensor;
  readonly #first: number;

  constructor(device: Device, dtype: DType, shape: readonly number[], padding = 0) {
    const last = shape.length - 1;
    const wide = shape.map((extent, i) => (i === last ? extent + padding : extent));
    this.#whole = device.tensor(dtype, wide);
    this.#whole.write(poison(dtype, this.#whole.size));
    this.#first = padding >> 1;
    this.view = this.#whole.slice(last, this.#first, this.#first + shape[last]!);
  }

  /** The result, after a check that nothing was written between the rows. */
  async read(): Promise<Float32Array> {
    const { dtype, shape } = this.#whole;
    const wide = shape[shape.length - 1]!;
    const narrow = this.view.shape[shape.length - 1]!;
    const all = await this.#whole.read();
    const fresh = poison(dtype, 1);
    for (let start = 0; start < all.length; start += wide) {
      for (let column = 0; column < wide; column++) {
        if (column === this.#first) column += narrow;
        if (column < wide && !Object.is(all[start + column], fresh[0])) throw new Error(`Element ${start + column}, between the rows, was overwritten`);
      }
    }
    return dtype === 'bf16' ? this.view.readFloats() : ((await this.view.read()) as Float32Array);
  }
}

/** Values as a tensor with rows `padding` elements apart and NaN between them. */
export function padded(device: Device, data: TensorData, shape: readonly number[], padding = 0): Tensor {
  const dtype = data instanceof Float32Array ? 'f32' : data instanceof Uint16Array ? 'bf16' : data instanceof Int32Array ? 'i32' : 'u8';
  const { view } = new Poisoned(device, dtype, shape, padding);
  view.write(data);
  return view;
}

/** f32 values in either element type: what to give to the device, and what it then holds. */
export function inType(values: Float32Array, dtype: 'f32' | 'bf16'): { data: TensorData; values: Float32Array } {
  if (dtype === 'f32') return { data: values, values };
  const data = floatsToBf16(values);
  return { data, values: bf16ToFloats(data) };
}

/** Fails unless every |actual - expected| is at most its tolerance; NaN must meet NaN. */
export function expectClose(actual: ArrayLike<number>, expected: ArrayLike<number>, tolerance: (index: number) => number): void {
  expect(actual.length).toBe(expected.length);
  for (let i = 0; i < expected.length; i++) {
    if (Object.is(actual[i], expected[i]) || actual[i] === expected[i]) continue;
    const error = Math.abs(actual[i]! - expected[i]!);
    if (!(error <= tolerance(i))) {
      throw new Error(`Element ${i}: expected ${expected[i]} within ${tolerance(i)} but received ${actual[i]} (off by ${error})`);
    }
  }
}

/** Fails unless the two are the same bit for bit (any NaN meets any). Much faster than toEqual. */
export function expectSame(actual: ArrayLike<number>, expected: ArrayLike<number>): void {
  expect(actual.length).toBe(expected.length);
  for (let i = 0; i < expected.length; i++) {
    if (!Object.is(actual[i], expected[i])) throw new Error(`Element ${i}: expected ${expected[i]} but received ${actual[i]}`);
  }
}

/**
 * What `run` writes into a bf16 tensor on a GPU must be what it writes into an f32 one, rounded. The CPU refuses bf16.
 * `run` may be called several times.
 */
export async function expectRounding(device: Device, shape: readonly number[], padding: number, run: (out: Tensor) => void): Promise<void> {
  const narrow = new Poisoned(device, 'bf16', shape, padding);
  if (device.name === 'cpu') {
    expect(refusal(() => run(narrow.view))).toBe('DTYPE');
    return;
  }
  const wide = device.tensor('f32', shape);
  run(wide);
  run(narrow.view);
  expectSame(await narrow.read(), inType((await wide.read()) as Float32Array, 'bf16').values);
}

/** The code with which a call is refused at once. */
export function refusal(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    if (error instanceof SpkvError) return error.code;
    throw error;
  }
  return 'no error';
}

/** The error with which the next read after enqueued work fails. */
export async function failure(run: () => void, read: Tensor): Promise<SpkvError> {
  run();
  return read.read().then(
    () => {
      throw new Error('The work did not fail');
    },
    (error: SpkvError) => error,
  );
}
