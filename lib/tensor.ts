import { integer, invalid } from './check.js';
import type { Device } from './device.js';
import { SpkvError } from './errors.js';
import { type DType, DTYPES, native, settle, type TensorHandle, type TypedArray } from './native.js';

export type { DType } from './native.js';
export type TensorData = TypedArray;

const BYTES: Record<DType, number> = { f32: 4, bf16: 2, i32: 4, u8: 1 };

/**
 * Memory of a device with a shape. Rows may be strided (a view of some columns of a wider tensor); the last
 * dimension is always contiguous. Freed by `dispose` or by `using`, and its views with it, or by the garbage collector
 * when neither is there any more; work that is in flight keeps what it needs.
 */
export class Tensor implements Disposable {
  readonly device: Device;
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** Distance of neighbours along each dimension, in elements. */
  readonly strides: readonly number[];
  readonly #handle: TensorHandle;

  private constructor(device: Device, dtype: DType, shape: readonly number[], strides: readonly number[], handle: TensorHandle) {
    this.device = device;
    this.dtype = dtype;
    this.shape = shape;
    this.strides = strides;
    this.#handle = handle;
  }

  /** @internal */
  static create(device: Device, dtype: DType, shape: readonly number[]): Tensor {
    checkShape(shape);
    const handle = native().createTensor(device.handle, dtypeNumber(dtype), shape);
    return new Tensor(device, dtype, [...shape], contiguous(shape), handle);
  }

  /** @internal */
  static from(device: Device, data: TensorData, shape: readonly number[]): Tensor {
    const tensor = Tensor.create(device, dtypeOf(data), shape);
    tensor.write(data);
    return tensor;
  }

  /** @internal */
  static map(device: Device, path: string, byteOffset: number, dtype: DType, shape: readonly number[]): Tensor {
    checkShape(shape);
    const handle = native().mapTensor(device.handle, path, integer(byteOffset, 'byteOffset'), dtypeNumber(dtype), shape);
    return new Tensor(device, dtype, [...shape], contiguous(shape), handle);
  }

  /** @internal A weight [n, k] in the layout that the device's matrix product likes best. */
  static packed(device: Device, dtype: DType, n: number, k: number): Tensor {
    const handle = native().createPacked(device.handle, dtypeNumber(dtype), n, k);
    return new Tensor(device, dtype, [n, k], [k, 1], handle);
  }

  /** @internal */
  get handle(): TensorHandle {
    return this.#handle;
  }

  /** Number of elements. */
  get size(): number {
    return this.shape.reduce((product, extent) => product * extent, 1);
  }

  get bytes(): number {
    return this.size * BYTES[this.dtype];
  }

  /** The tensor at `index` of the first dimension, over the same memory. */
  at(index: number): Tensor {
    if (this.shape.length < 2) throw new SpkvError('SHAPE', 'Expected at least 2 dimensions for at()');
    integer(index, 'index', 0, this.shape[0]! - 1);
    return this.view(this.shape.slice(1), this.strides.slice(1), index * this.strides[0]!);
  }

  /** The part [start, end) along one dimension, over the same memory. */
  slice(dimension: number, start: number, end: number): Tensor {
    integer(dimension, 'dimension', 0, this.shape.length - 1);
    const extent = this.shape[dimension]!;
    integer(end, 'end', 0, extent);
    integer(start, 'start', 0, end);
    const shape = this.shape.map((size, i) => (i === dimension ? end - start : size));
    return this.view(shape, this.strides, start * this.strides[dimension]!);
  }

  /** The last dimension as [count, size / count], over the same memory: columns [T, H * D] become heads [T, H, D]. */
  split(count: number): Tensor {
    const last = this.shape[this.shape.length - 1]!;
    integer(count, 'count', 1);
    if (last % count !== 0) throw new SpkvError('SHAPE', `Expected a divisor of ${last} for count but received ${count}`);
    const inner = last / count;
    return this.view([...this.shape.slice(0, -1), count, inner], [...this.strides.slice(0, -1), inner, 1], 0);
  }

  /** The last two dimensions as one, over the same memory; heads [T, H, D] become columns [T, H * D]. */
  merge(): Tensor {
    const rank = this.shape.length;
    const inner = this.shape[rank - 1]!;
    if (rank < 2 || this.strides[rank - 2] !== inner) throw new SpkvError('SHAPE', 'The last two dimensions do not lie together');
    return this.view([...this.shape.slice(0, -2), this.shape[rank - 2]! * inner], [...this.strides.slice(0, -2), 1], 0);
  }

  /** Any other view of the same memory; strides and offset in elements. */
  view(shape: readonly number[], strides: readonly number[], offset: number): Tensor {
    checkShape(shape);
    const handle = native().viewTensor(this.#handle, shape, strides, integer(offset, 'offset'));
    return new Tensor(this.device, this.dtype, [...shape], [...strides], handle);
  }

  /** Enqueues an overwrite. The data is copied at once, so the array may be changed afterwards. */
  write(data: TensorData): void {
    if (!ArrayBuffer.isView(data)) throw invalid('a typed array', 'data', data);
    if (dtypeOf(data) !== this.dtype) {
      throw new SpkvError('DTYPE', `Expected ${this.dtype} data but received a ${data.constructor.name} (${dtypeOf(data)})`);
    }
    native().writeTensor(this.#handle, data);
  }

  /**
   * The elements once everything enqueued before has run; bf16 comes as a Uint16Array of its bits. Errors: OUT_OF_MEMORY
   * where there is none left for them.
   */
  async read(): Promise<TypedArray> {
    return settle(native().readTensor(this.#handle, hostMemory(this.dtype, this.size)));
  }

  /** Like {@link read}, for f32 and bf16 tensors as numbers. */
  async readFloats(): Promise<Float32Array> {
    const data = await this.read();
    if (data instanceof Uint16Array || this.dtype === 'bf16') return bf16ToFloats(data as Uint16Array);
    if (this.dtype !== 'f32') throw new SpkvError('DTYPE', `Expected f32 or bf16 for readFloats() but the tensor is ${this.dtype}`);
    return data as Float32Array;
  }

  /** Frees the memory, at once but for work in flight, and ends all views of it; of a view, ends that view. Safe to call twice. */
  dispose(): void {
    native().disposeTensor(this.#handle);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** bf16 bits as numbers: a bf16 is the upper half of an f32. */
export function bf16ToFloats(bits: Uint16Array): Float32Array {
  const words = new Uint32Array(bits.length);
  for (let i = 0; i < bits.length; i++) words[i] = bits[i]! << 16;
  return new Float32Array(words.buffer);
}

/** Numbers as bf16 bits, rounded to nearest even. */
export function floatsToBf16(values: Float32Array): Uint16Array {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const halves = new Uint16Array(words.length);
  for (let i = 0; i < words.length; i++) {
    const bits = words[i]!;
    halves[i] = (bits & 0x7fffffff) > 0x7f800000 ? (bits >>> 16) | 0x40 : (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
  }
  return halves;
}

const ARRAYS = { f32: Float32Array, bf16: Uint16Array, i32: Int32Array, u8: Uint8Array } as const;

function hostMemory(dtype: DType, size: number): TypedArray {
  try {
    return new ARRAYS[dtype](size);
  } catch (error) {
    throw new SpkvError('OUT_OF_MEMORY', `Could not allocate ${size * BYTES[dtype]} bytes to read a tensor`, { cause: error });
  }
}

// By constructor name: typed arrays may come from another realm (a vm context, a test runner).
function dtypeOf(data: TensorData): DType {
  switch (data?.constructor?.name) {
    case 'Float32Array': return 'f32';
    case 'Uint16Array': return 'bf16';
    case 'Int32Array': return 'i32';
    case 'Uint8Array':
    case 'Buffer': return 'u8';
  }
  throw invalid('a Float32Array, Uint16Array, Int32Array or Uint8Array', 'data', data);
}

function dtypeNumber(dtype: DType): number {
  const number = DTYPES.indexOf(dtype);
  if (!Object.hasOwn(BYTES, dtype)) throw invalid('f32, bf16, i32 or u8', 'dtype', dtype);
  return number;
}

function checkShape(shape: readonly number[]): void {
  if (!Array.isArray(shape) || shape.length < 1 || shape.length > 4) throw new SpkvError('SHAPE', 'Expected 1 to 4 dimensions for shape');
  for (const extent of shape) {
    if (!Number.isSafeInteger(extent) || extent < 0) throw new SpkvError('SHAPE', `Expected non-negative integers for shape but received [${shape.join(', ')}]`);
  }
}

function contiguous(shape: readonly number[]): number[] {
  const strides = new Array<number>(shape.length);
  let stride = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    strides[i] = stride;
    stride *= shape[i]!;
  }
  return strides;
}
