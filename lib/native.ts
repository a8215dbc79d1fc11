import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { SpkvError } from './errors.js';

// The only file that touches the binary. Handles are opaque; everything else about them lives in TypeScript.

declare const kind: unique symbol;
type Handle<Kind extends string> = { readonly [kind]: Kind };
export type DeviceHandle = Handle<'device'>;
export type TensorHandle = Handle<'tensor'>;
export type CacheHandle = Handle<'cache'>;
export type GraphHandle = Handle<'graph'>;
export type CommunicatorHandle = Handle<'communicator'>;
export type SubmissionHandle = Handle<'submission'>;
export type GraphSessionHandle = Handle<'graph session'>;
export type ChannelHandle = Handle<'channel'>;
type Optional = TensorHandle | null;

/** Element types, by their number in the binary. */
export const DTYPES = ['f32', 'bf16', 'i32', 'u8', 'fp8'] as const;
/** Those of tensors. */
export type DType = Exclude<(typeof DTYPES)[number], 'fp8'>;
export type TypedArray = Float32Array | Uint16Array | Int32Array | Uint8Array;

/** Pages of a pool; a page holds 64 pairs of one layer and KV head. */
export interface PoolStats {
  /** Bytes of a page: 64 pairs of one layer and KV head. */
  pageBytes: number;
  /** The most pages that there can be. */
  capacityPages: number;
  /** Pages that sequences hold now; a page that several share counts once. */
  usedPages: number;
  /** The most pages that were ever in use: what the system has had to provide. */
  peakPages: number;
  /** Sequences that have not been disposed. */
  sequences: number;
}

export interface SequenceStats {
  /** Tokens seen. */
  length: number;
  threshold: number;
  /** Pages held: rings and kept pairs, shared ones included. */
  pages: number;
  /** Those of them that forks hold, too. */
  sharedPages: number;
  /** Kept pairs that have left the window, for each layer and KV head: [layers * kvHeads]. */
  kept: Float64Array;
}

/** The functions of the binary, as native/binding/exports.h lists them. */
export interface Native {
  initialize(errorClass: typeof SpkvError): void;
  liveAllocations(): { tensors: number; bytes: number; caches: number };

  openCpuDevice(threads: number, pin: boolean | null, instructions: string): DeviceHandle;
  openCudaDevice(libraryPath: string, ordinal: number, exact: boolean, timeProducts: boolean): DeviceHandle;
  describeDevice(device: DeviceHandle): { name: string; description: string };
  freeMemory(device: DeviceHandle): number | null;
  closeDevice(device: DeviceHandle): void;
  synchronize(device: DeviceHandle): Promise<void>;
  beginSubmission(device: DeviceHandle): SubmissionHandle;
  endSubmission(device: DeviceHandle): void;
  cancelSubmission(submission: SubmissionHandle): void;
  busyNanoseconds(device: DeviceHandle): number;
  beginCapture(device: DeviceHandle): void;
  endCapture(device: DeviceHandle): GraphHandle;
  launch(graph: GraphHandle): void;
  disposeCapture(graph: GraphHandle): void;

  createTensor(device: DeviceHandle, dtype: number, shape: readonly number[]): TensorHandle;
  mapTensor(device: DeviceHandle, path: string, byteOffset: number, dtype: number, shape: readonly number[]): TensorHandle;
  viewTensor(tensor: TensorHandle, shape: readonly number[], strides: readonly number[], offset: number): TensorHandle;
  writeTensor(tensor: TensorHandle, data: TypedArray): void;
  readTensor(tensor: TensorHandle, into: TypedArray): Promise<TypedArray>;
  disposeTensor(tensor: TensorHandle): void;
  createPacked(device: DeviceHandle, dtype: number, n: number, k: number): TensorHandle;

  communicatorId(device: DeviceHandle): Uint8Array;
  createCommunicator(device: DeviceHandle, id: Uint8Array, rank: number, size: number): CommunicatorHandle;
  connectCommunicator(communicator: CommunicatorHandle): Promise<void>;
  allReduce(communicator: CommunicatorHandle, x: TensorHandle): void;
  joinReductions(communicator: CommunicatorHandle): void;
  communicatorFailure(communicator: CommunicatorHandle): void;
  abortCommunicator(communicator: CommunicatorHandle): void;
  disposeCommunicator(communicator: CommunicatorHandle): Promise<void>;

  pageBytes(device: DeviceHandle, headDim: number, dtype: number): number;
  createCache(
    device: DeviceHandle, layers: number, kvHeads: number, headDim: number, window: number, slack: number,
    dtype: number, capacityPages: number,
  ): CacheHandle;
  disposeCache(cache: CacheHandle): void;
  poolStats(cache: CacheHandle): Promise<PoolStats>;
  createSequence(cache: CacheHandle, threshold: number): Promise<number>;
  releaseSequence(cache: CacheHandle, slot: number): Promise<void>;
  forkSequence(cache: CacheHandle, slot: number): Promise<number>;
  rewindSequence(cache: CacheHandle, slot: number, tokens: number): Promise<void>;
  sequenceStats(cache: CacheHandle, slot: number): Promise<SequenceStats>;
  forecastSequences(cache: CacheHandle, slots: Int32Array, tokens: number): Promise<Int32Array>;
  saveSequence(cache: CacheHandle, slot: number): Promise<Uint8Array>;
  restoreSequence(cache: CacheHandle, bytes: Uint8Array): Promise<number>;
  poisonCache(cache: CacheHandle): Promise<void>;

  embedding(out: TensorHandle, ids: TensorHandle, table: TensorHandle): void;
  embeddingBackward(dTable: TensorHandle, ids: TensorHandle, dy: TensorHandle): void;
  rmsNorm(out: TensorHandle, x: TensorHandle, weight: TensorHandle, epsilon: number): void;
  rmsNormBackward(
    dx: TensorHandle, dWeight: TensorHandle, dy: TensorHandle, x: TensorHandle, weight: TensorHandle, epsilon: number,
    accumulate: boolean, copy: Optional,
  ): void;
  matmul(out: TensorHandle, x: TensorHandle, weight: TensorHandle, bias: Optional, base: Optional): void;
  matmulInputGradient(dx: TensorHandle, dy: TensorHandle, weight: TensorHandle, accumulate: boolean): void;
  matmulWeightGradient(dWeight: TensorHandle, dy: TensorHandle, x: TensorHandle): void;
  columnSums(out: TensorHandle, x: TensorHandle): void;
  packWeight(out: TensorHandle, count: number, ...sources: TensorHandle[]): void;
  rotaryAngles(out: TensorHandle, positions: TensorHandle, inverseFrequencies: TensorHandle): void;
  rope(out: TensorHandle, x: TensorHandle, angles: TensorHandle, inverse: boolean): void;
  siluMul(out: TensorHandle, gate: TensorHandle, up: TensorHandle): void;
  siluMulBackward(
    dGate: TensorHandle, dUp: TensorHandle, dy: TensorHandle, gate: TensorHandle, up: TensorHandle, activated: Optional,
  ): void;
  add(out: TensorHandle, a: TensorHandle, b: TensorHandle): void;
  copy(out: TensorHandle, x: TensorHandle): void;
  fill(out: TensorHandle, value: number): void;
  predictUtility(
    out: TensorHandle, hidden: TensorHandle, weight: TensorHandle, bias: TensorHandle, form: number, alpha: number,
    threshold: number,
  ): void;
  predictUtilityBackward(
    dHidden: TensorHandle, dWeight: TensorHandle, dBias: TensorHandle, dLogUtility: TensorHandle, hidden: TensorHandle,
    weight: TensorHandle, bias: TensorHandle,
  ): void;
  countKept(
    counts: TensorHandle, utilities: TensorHandle, thresholds: TensorHandle, offsets: TensorHandle, window: number,
  ): void;
  preparePairs(
    q: TensorHandle, keys: TensorHandle, values: TensorHandle, utilities: Optional, qkv: TensorHandle, angles: TensorHandle,
    qNorm: Optional, kNorm: Optional, epsilon: number, weight: Optional, bias: Optional, log: boolean,
  ): void;
  attention(
    out: TensorHandle, q: TensorHandle, keys: TensorHandle, values: TensorHandle, utilities: Optional,
    cache: CacheHandle, layer: number, slots: TensorHandle, offsets: TensorHandle, scale: number,
  ): void;
  insert(
    cache: CacheHandle, keys: TensorHandle, values: TensorHandle, utilities: Optional, slots: TensorHandle,
    offsets: TensorHandle, logits: Optional,
  ): void;
  positions(out: TensorHandle, cache: CacheHandle, slots: TensorHandle, offsets: TensorHandle): void;
  gatedAttention(
    out: TensorHandle, logSumExp: Optional, q: TensorHandle, keys: TensorHandle, values: TensorHandle, gates: Optional,
    offsets: TensorHandle, window: number, scale: number,
  ): void;
  gatedAttentionBackward(
    dq: TensorHandle, dk: TensorHandle, dv: TensorHandle, dGates: Optional, dOut: TensorHandle, out: TensorHandle,
    logSumExp: TensorHandle, q: TensorHandle, keys: TensorHandle, values: TensorHandle, gates: Optional,
    offsets: TensorHandle, window: number, scale: number,
  ): void;
  sample(
    out: TensorHandle, logits: TensorHandle, settings: TensorHandle, seeds: TensorHandle, positions: TensorHandle,
    history: Optional, mask: Optional,
  ): void;
  recordPrompt(history: TensorHandle, ids: TensorHandle): void;
  logProbabilities(out: TensorHandle, logits: TensorHandle, targets: TensorHandle): void;
  crossEntropy(losses: TensorHandle, logits: TensorHandle, targets: TensorHandle, factor: number): void;
  adamW(
    parameter: TensorHandle, momentum: TensorHandle, variance: TensorHandle, copy: Optional, gradient: TensorHandle,
    factor: TensorHandle, learningRate: number, beta1: number, beta2: number, epsilon: number, weightDecay: number,
    step: number,
  ): void;
  squaredNorm(out: TensorHandle, x: TensorHandle): void;
  clipFactor(factor: TensorHandle, norm: TensorHandle, squaredNorms: TensorHandle, scale: number, limit: number): void;

  openGraph(device: DeviceHandle, libraryPath: string, graphPath: string, threads: number): Promise<GraphSessionHandle>;
  runGraph(
    logits: Optional, keys: TensorHandle, values: TensorHandle, utilities: Optional, session: GraphSessionHandle,
    cache: CacheHandle, ids: TensorHandle, positions: TensorHandle, slots: TensorHandle, offsets: TensorHandle,
    rows: Optional, vocabulary: number,
  ): void;
  disposeGraph(session: GraphSessionHandle): void;
  openChannel(device: DeviceHandle): { channel: ChannelHandle; farEnd: number };
  greetChannel(channel: ChannelHandle): Promise<void>;
  exchange(
    channel: ChannelHandle, part: number, tokens: number, rows: number, outputCount: number, ...tensors: TensorHandle[]
  ): void;
  disposeChannel(channel: ChannelHandle): void;
}

const root = fileURLToPath(new URL('..', import.meta.url));
let loaded: Native | undefined;

/** The binary, loaded at first use, so that importing spkv works without it. */
export function native(): Native {
  if (!loaded) {
    loaded = load();
    loaded.initialize(SpkvError);
  }
  return loaded;
}

function load(): Native {
  const require = createRequire(import.meta.url);
  const attempts: string[] = [];
  for (const path of candidates()) {
    if (!existsSync(path)) {
      attempts.push(`${path}: not there`);
      continue;
    }
    try {
      return require(path) as Native;
    } catch (error) {
      attempts.push(`${path}: ${(error as Error).message}`);
    }
  }
  throw new SpkvError(
    'NATIVE',
    [
      `The native library of spkv could not be loaded for ${process.platform}-${process.arch}, Node ${process.version}.`,
      ...attempts.map((attempt) => `  ${attempt}`),
      'Build it once with "npx spkv build" (in a checkout: "npm run build"). That needs Python 3, make and a C++17 compiler.',
    ].join('\n'),
  );
}

/** SPKV_NATIVE names a binary to use instead; a binary built here comes before one that was shipped. */
function candidates(): string[] {
  const chosen = process.env['SPKV_NATIVE'];
  return chosen ? [chosen] : [join(root, 'build/Release/spkv.node'), join(shipped(), 'spkv.node')];
}

/** Where the CUDA library may lie, in the same order. SPKV_CUDA_LIBRARY names another place. */
export function cudaLibraries(): string[] {
  const chosen = process.env['SPKV_CUDA_LIBRARY'];
  return chosen ? [chosen] : [join(root, 'build-cuda/Release/libspkv_cuda.so'), join(shipped(), 'libspkv_cuda.so')];
}

function shipped(): string {
  return join(root, `prebuilds/${process.platform}-${process.arch}${isMusl() ? '-musl' : ''}`);
}

function isMusl(): boolean {
  if (process.platform !== 'linux') return false;
  const report = process.report.getReport() as unknown as { header: { glibcVersionRuntime?: string } };
  return report.header.glibcVersionRuntime === undefined;
}

/**
 * Awaits an answer of the stream. An error made on another thread has no JavaScript frames; it is made anew
 * here, where the stack leads back to the caller.
 */
export async function settle<T>(answer: Promise<T>): Promise<T> {
  try {
    return await answer;
  } catch (error) {
    if (error instanceof SpkvError) throw new SpkvError(error.code, error.message, { cause: error });
    throw error;
  }
}
