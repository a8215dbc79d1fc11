import { KvCache, type KvCacheOptions } from './cache.js';
import { boolean, integer, invalid, oneOf, options } from './check.js';
import { SpkvError } from './errors.js';
import { type DeviceHandle, type GraphHandle, native, settle } from './native.js';
import { type DType, Tensor, type TensorData } from './tensor.js';

export interface DeviceOptions {
  /** Threads of the CPU, the stream's own included. Defaults to the physical cores that the process may use. */
  threads?: number;
  /** Keep each thread on a core of its own (Linux). Defaults to true. */
  pin?: boolean;
  /** Instruction set of the CPU kernels. Defaults to the best that the processor has. */
  instructions?: 'auto' | 'avx512' | 'avx2' | 'portable';
}

/**
 * Opens a device: 'cpu', or 'auto' for the best that is there (today the CPU).
 *
 * A device runs its operations in order on a stream of its own; calls return at once, and only reading results
 * back waits, as a promise. The first operation that fails while running cancels what is enqueued behind it (in
 * its submission, see {@link Device.submit}) until its error has been delivered by a rejected promise.
 */
export function openDevice(name: string = 'auto', opts?: DeviceOptions): Device {
  const { threads, pin, instructions } = options(opts, 'device options', ['threads', 'pin', 'instructions']);
  if (typeof name !== 'string') throw invalid('a device name', 'device', name);
  if (name.startsWith('cuda')) throw new SpkvError('DEVICE', `Device "${name}" is not available: this build of spkv has no CUDA library`);
  oneOf(name, 'device', ['auto', 'cpu']);
  const set = oneOf(instructions ?? 'auto', 'instructions', ['auto', 'avx512', 'avx2', 'portable']);
  const handle = native().openDevice(
    threads === undefined ? 0 : integer(threads, 'threads', 1, 1024),
    pin === undefined ? true : boolean(pin, 'pin'),
    set === 'auto' ? '' : set,
  );
  return new Device(handle);
}

/** A recorded run of operations, see {@link Device.capture}. */
export class Graph {
  readonly #handle: GraphHandle;

  /** @internal */
  constructor(handle: GraphHandle) {
    this.#handle = handle;
  }

  /** Enqueues the whole run at the price of one call. */
  launch(): void {
    native().launch(this.#handle);
  }
}

export class Device implements Disposable {
  /** 'cpu' */
  readonly name: string;
  /** For people: instruction set and threads. */
  readonly description: string;
  readonly #handle: DeviceHandle;

  /** @internal */
  constructor(handle: DeviceHandle) {
    this.#handle = handle;
    ({ name: this.name, description: this.description } = native().describeDevice(handle));
  }

  /** @internal */
  get handle(): DeviceHandle {
    return this.#handle;
  }

  /** A tensor of zeros. */
  tensor(dtype: DType, shape: readonly number[]): Tensor {
    return Tensor.create(this, dtype, shape);
  }

  /** A tensor with the elements of a typed array: Float32Array f32, Uint16Array bf16 bits, Int32Array i32, Uint8Array u8. */
  from(data: TensorData, shape: readonly number[] = [data.length]): Tensor {
    return Tensor.from(this, data, shape);
  }

  /** A read-only tensor over bytes of a file, memory-mapped. */
  map(path: string, byteOffset: number, dtype: DType, shape: readonly number[]): Tensor {
    return Tensor.map(this, path, byteOffset, dtype, shape);
  }

  createCache(opts: KvCacheOptions): KvCache {
    return new KvCache(this, opts);
  }

  /**
   * Records the operations that `body` enqueues instead of running them. They can then be launched again and
   * again: sizes are those of the recording, contents those at the time of each launch.
   */
  capture(body: () => void): Graph {
    native().beginCapture(this.#handle);
    let graph: GraphHandle | undefined;
    try {
      body();
    } finally {
      graph = native().endCapture(this.#handle);
    }
    return new Graph(graph);
  }

  /** Resolves when everything enqueued so far has run, or rejects with the first failure among it. */
  async synchronize(): Promise<void> {
    return settle(native().synchronize(this.#handle));
  }

  /**
   * Runs `body`, which enqueues operations and returns a promise of their result without waiting in between,
   * as one unit: a failure in it skips the rest of it and nothing else, and `signal` cancels it between two
   * operations.
   */
  async submit<T>(body: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    signal?.throwIfAborted();
    const submission = native().beginSubmission(this.#handle);
    let result: Promise<T>;
    try {
      result = body();
    } finally {
      native().endSubmission(this.#handle);
    }
    if (!signal) return result;
    const cancel = () => native().cancelSubmission(submission);
    signal.addEventListener('abort', cancel, { once: true });
    try {
      return await result;
    } catch (error) {
      signal.throwIfAborted();
      throw error;
    } finally {
      signal.removeEventListener('abort', cancel);
    }
  }

  /** Nanoseconds that the stream has spent running operations. */
  get busyNanoseconds(): number {
    return native().busyNanoseconds(this.#handle);
  }

  /** Lets go of the device. It ends when the last tensor and cache on it are gone too. */
  dispose(): void {
    native().closeDevice(this.#handle);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
