import { existsSync } from 'node:fs';
import { CACHE_DTYPES, type CacheDType, KvCache, type KvCacheOptions } from './cache.js';
import { abortSignal, boolean, callback, integer, invalid, oneOf, options } from './check.js';
import { SpkvError } from './errors.js';
import { Communicator } from './communicator.js';
import { cudaLibraries, type DeviceHandle, DTYPES, type GraphHandle, native, settle } from './native.js';
import { type DType, Tensor, type TensorData } from './tensor.js';

/** How a device is to be opened; all optional. */
export interface DeviceOptions {
  /**
   * Threads of the CPU, the stream's own included. Defaults to the physical cores that the process may use, or to
   * the quota of its container where that is less.
   */
  threads?: number;
  /** Keep each thread on a core of its own (Linux). Defaults to true where there is a thread for every core. */
  pin?: boolean;
  /** Instruction set of the CPU kernels. Defaults to the best that the processor has. */
  instructions?: 'auto' | 'avx512' | 'avx2' | 'portable';
  /**
   * On a GPU 'bf16' rounds activations to bf16 where they meet bf16 weights or a bf16 cache, as the tensor cores
   * want it, and sums in f32; 'f32' computes in f32 throughout, at a fraction of the speed. The CPU always does
   * the latter. Defaults to 'bf16'.
   */
  precision?: 'bf16' | 'f32';
  /**
   * On a GPU, times the algorithms that cuBLASLt proposes for a kind of matrix product when it is first computed
   * (not in a graph), and takes the fastest instead of the first. For work that computes the same products again and
   * again, as training does: it opens its device so. Which is the fastest may differ from run to run, and with it the
   * last bits of results. The CPU has one algorithm only. Defaults to false.
   */
  timeProducts?: boolean;
  /** Told why 'auto' has chosen the CPU although a CUDA library is there. Defaults to nobody. */
  onWarning?: (message: string) => void;
}

const CPU_OPTIONS = ['threads', 'pin', 'instructions'] as const;

/**
 * Opens a device: 'cpu', 'cuda:0' and so on ('cuda' is 'cuda:0'), or 'auto', the best that is there: the first
 * GPU, where the CUDA library has been built and can be used, else the CPU. `threads`, `pin` and `instructions`
 * are options of the CPU: with them 'auto' is the CPU, and a GPU refuses them.
 *
 * A device runs its operations in order on a stream of its own; calls return at once, and only reading results
 * back waits, as a promise. The first operation that fails while running cancels what is enqueued behind it (in
 * its submission, see {@link Device.submit}) until its error has been delivered by a rejected promise. On a GPU
 * some of it may have begun: what it wrote to tensors is then arbitrary, but caches and sampling histories are as
 * they were before the failure.
 *
 * Errors: INVALID_ARGUMENT; DEVICE for a GPU that is not there or cannot be used, with the reason; OUT_OF_MEMORY.
 */
export function openDevice(name: string = 'auto', opts?: DeviceOptions): Device {
  const given = options(opts, 'device options', [...CPU_OPTIONS, 'precision', 'timeProducts', 'onWarning']);
  callback(given.onWarning, 'onWarning');
  const gpu: GpuOptions = {
    exact: oneOf(given.precision ?? 'bf16', 'precision', ['bf16', 'f32']) === 'f32',
    timeProducts: boolean(given.timeProducts ?? false, 'timeProducts'),
  };
  const unfit = CPU_OPTIONS.find((option) => given[option] !== undefined);
  if (name === 'cpu') return openCpu(given);
  if (name === 'auto') return unfit === undefined ? openBest(gpu, given) : openCpu(given);
  const cuda = typeof name === 'string' ? /^cuda(?::(\d{1,4}))?$/.exec(name) : null;
  if (!cuda) throw invalid('auto, cpu or a GPU such as cuda:0', 'device', name);
  if (unfit !== undefined) throw new SpkvError('INVALID_ARGUMENT', `Expected no option "${unfit}" for device "${name}": it is an option of the CPU`);
  return openCuda(Number(cuda[1] ?? 0), gpu);
}

function openCpu({ threads, pin, instructions }: Partial<DeviceOptions>): Device {
  const set = oneOf(instructions ?? 'auto', 'instructions', ['auto', 'avx512', 'avx2', 'portable']);
  const handle = native().openCpuDevice(
    threads === undefined ? 0 : integer(threads, 'threads', 1, 1024),
    pin === undefined ? null : boolean(pin, 'pin'),
    set === 'auto' ? '' : set,
  );
  return new Device(handle, 'f32');
}

interface GpuOptions {
  exact: boolean;
  timeProducts: boolean;
}

function openCuda(ordinal: number, { exact, timeProducts }: GpuOptions): Device {
  const places = cudaLibraries();
  const library = places.find((path) => existsSync(path));
  if (library !== undefined) return new Device(native().openCudaDevice(library, ordinal, exact, timeProducts), exact ? 'f32' : 'bf16');
  throw new SpkvError(
    'DEVICE',
    `Device "cuda:${ordinal}" needs the CUDA library of spkv, which is not there (${places.join(', ')}). ` +
      'Build it with "npx spkv build --cuda" (in a checkout: "npm run build:cuda"); that needs the CUDA toolkit and CMake',
  );
}

/** Nothing is loaded where no CUDA library has been built. */
function openBest(gpu: GpuOptions, { onWarning }: Partial<DeviceOptions>): Device {
  if (!cudaLibraries().some((path) => existsSync(path))) return openCpu({});
  try {
    return openCuda(0, gpu);
  } catch (error) {
    if (!(error instanceof SpkvError) || error.code === 'NATIVE') throw error;
    onWarning?.(`The CPU is used: ${error.message}`);
    return openCpu({});
  }
}

/** A recorded run of operations, see {@link Device.capture}. */
export class Graph implements Disposable {
  readonly #handle: GraphHandle;

  /** @internal */
  constructor(handle: GraphHandle) {
    this.#handle = handle;
  }

  /** Enqueues the whole run at the price of one call. */
  launch(): void {
    native().launch(this.#handle);
  }

  /** Lets go of the memory that it works with. Safe to call twice. */
  dispose(): void {
    native().disposeCapture(this.#handle);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** An open device, from {@link openDevice}: where tensors and caches lie, and the stream on which operations run in order. */
export class Device implements Disposable {
  /** 'cpu', 'cuda:0' */
  readonly name: string;
  /** For people: instruction set and threads, or the GPU. */
  readonly description: string;
  /** In which activations meet weights and cached pairs: see {@link DeviceOptions.precision}. */
  readonly precision: 'bf16' | 'f32';
  readonly #handle: DeviceHandle;

  /** @internal */
  constructor(handle: DeviceHandle, precision: 'bf16' | 'f32') {
    this.#handle = handle;
    this.precision = precision;
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

  /** A cache with its pool of pages. Errors: INVALID_ARGUMENT; OUT_OF_MEMORY. */
  createCache(opts: KvCacheOptions): KvCache {
    return new KvCache(this, opts);
  }

  /** What the ranks of a run have in common to meet: made on one of them, and handed to the others. */
  communicatorId(): Uint8Array {
    return native().communicatorId(this.#handle);
  }

  /** One of `size` ranks that compute together, each with a GPU of its own, through NCCL. Errors: INVALID_ARGUMENT, UNSUPPORTED, DEVICE. */
  communicator(id: Uint8Array, rank: number, size: number): Communicator {
    return new Communicator(native().createCommunicator(this.#handle, id, integer(rank, 'rank', 0, integer(size, 'size', 1, 2 ** 20) - 1), size));
  }

  /** Bytes that can still be allocated; null on the CPU, where memory is only taken as it is filled. */
  get freeMemory(): number | null {
    return native().freeMemory(this.#handle);
  }

  /** Bytes that a cache takes for a page: 64 pairs of one layer and KV head. */
  pageBytes(headDim: number, dtype: CacheDType): number {
    return native().pageBytes(this.#handle, integer(headDim, 'headDim', 2, 256), DTYPES.indexOf(oneOf(dtype, 'dtype', CACHE_DTYPES)));
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
    abortSignal(signal, 'signal')?.throwIfAborted();
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
