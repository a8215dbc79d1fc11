import { createHash } from 'node:crypto';
import { integer, invalid, number, oneOf, options } from './check.js';
import type { Device } from './device.js';
import { SpkvError } from './errors.js';
import { type CacheHandle, DTYPES, native, type PoolStats, type SequenceStats, settle } from './native.js';

export type { PoolStats, SequenceStats } from './native.js';

/** Slots of one page. */
export const PAGE_TOKENS = 64;

/** How a cache can store keys and values. */
export const CACHE_DTYPES = ['f32', 'bf16', 'fp8'] as const;
/**
 * 'fp8' has e4m3 numbers and a scale for every key and every value: half the memory of 'bf16', and a rounding error
 * of up to 1/16 of a number. New pairs are rounded before attention sees them, so that it always sees what is stored.
 */
export type CacheDType = (typeof CACHE_DTYPES)[number];

/** The geometry of a cache, which is that of a model, and its size. */
export interface KvCacheOptions {
  layers: number;
  kvHeads: number;
  /** Even, 2 to 256. */
  headDim: number;
  /** Pairs this near to a query are always visible, the query's own included. */
  window: number;
  /** How many tokens a sequence can be rewound: extra ring slots. Defaults to 0. */
  slack?: number;
  /** Storage of keys and values. Defaults to 'f32'. */
  dtype?: CacheDType;
  /** Size of the pool in pages. */
  capacityPages: number;
}

/**
 * The self-pruned cache: a pool of pages, and the sequences that hold them. Per layer and KV head a sequence
 * has a ring with the window and pages with the pairs that were kept when they left it.
 */
export class KvCache implements Disposable {
  readonly device: Device;
  readonly layers: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly window: number;
  readonly slack: number;
  readonly dtype: CacheDType;
  readonly capacityPages: number;
  readonly #handle: CacheHandle;
  #disposed = false;

  /** @internal Use {@link Device.createCache}. */
  constructor(device: Device, opts: KvCacheOptions) {
    const given = options(opts, 'cache options', ['layers', 'kvHeads', 'headDim', 'window', 'slack', 'dtype', 'capacityPages']);
    this.device = device;
    this.layers = integer(given.layers, 'layers', 1, 4096);
    this.kvHeads = integer(given.kvHeads, 'kvHeads', 1, 4096);
    this.headDim = integer(given.headDim, 'headDim', 2, 256);
    if (this.headDim % 2 !== 0) throw invalid('an even number', 'headDim', this.headDim);
    this.window = integer(given.window, 'window', 1, 1 << 20);
    this.slack = integer(given.slack ?? 0, 'slack', 0, 1 << 20);
    this.dtype = oneOf(given.dtype ?? 'f32', 'dtype', CACHE_DTYPES);
    this.capacityPages = integer(given.capacityPages, 'capacityPages', 1, 2 ** 31 - 1);
    this.#handle = native().createCache(
      device.handle, this.layers, this.kvHeads, this.headDim, this.window, this.slack,
      DTYPES.indexOf(this.dtype), this.capacityPages,
    );
  }

  /** @internal */
  get handle(): CacheHandle {
    return this.#handle;
  }

  /** Pages of one ring: what every sequence holds from the start, for each layer and KV head. */
  get ringPages(): number {
    return Math.ceil((this.window + this.slack) / PAGE_TOKENS);
  }

  /** What the pool holds, as of the work enqueued so far. */
  stats(): Promise<PoolStats> {
    return settle(native().poolStats(this.#handle));
  }

  /** What {@link Sequence.forecast} says, of several sequences for the price of one. */
  async forecast(sequences: readonly Sequence[], tokens: number): Promise<Int32Array[]> {
    const slots = Int32Array.from(sequences, (sequence, i) => {
      if (!(sequence instanceof Sequence) || sequence.cache !== this) throw invalid('a sequence of this cache', `sequences[${i}]`, sequence);
      return sequence.slot;
    });
    const pages = await settle(native().forecastSequences(this.#handle, slots, integer(tokens, 'tokens', 0, 1 << 20)));
    return sequences.map((_, row) => pages.subarray(row * tokens, (row + 1) * tokens));
  }

  /** A new, empty sequence that keeps the pairs whose utility is at least `threshold`. */
  async createSequence(opts?: { threshold?: number }): Promise<Sequence> {
    const { threshold = 0.5 } = options(opts, 'sequence options', ['threshold']);
    const slot = await settle(native().createSequence(this.#handle, number(threshold, 'threshold')));
    return new Sequence(this, slot, threshold);
  }

  /** A sequence from what {@link Sequence.save} gave, in this or another process. Errors: FILE for damaged bytes or another geometry; POOL_EXHAUSTED. */
  async restoreSequence(saved: Uint8Array): Promise<Sequence> {
    if (!ArrayBuffer.isView(saved) || saved.BYTES_PER_ELEMENT !== 1) throw invalid('a Uint8Array', 'saved', saved);
    const body = saved.subarray(0, -DIGEST_BYTES);
    if (saved.length <= DIGEST_BYTES || digest(body).compare(saved.subarray(-DIGEST_BYTES)) !== 0) {
      throw new SpkvError('FILE', 'The saved sequence is damaged or incomplete: its checksum does not match');
    }
    const slot = await settle(native().restoreSequence(this.#handle, new Uint8Array(body)));
    const { threshold, length } = await settle(native().sequenceStats(this.#handle, slot));
    return new Sequence(this, slot, shortest(threshold), length);
  }

  /** @internal For tests: fills all memory that holds no live pair with NaN. */
  poison(): Promise<void> {
    return settle(native().poisonCache(this.#handle));
  }

  /** Whether its memory has been given back; its sequences are gone with it. */
  get disposed(): boolean {
    return this.#disposed;
  }

  /** Gives all memory back, also that of sequences that are still there. */
  dispose(): void {
    this.#disposed = true;
    native().disposeCache(this.#handle);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** One text in the cache. */
export class Sequence implements AsyncDisposable {
  readonly cache: KvCache;
  readonly threshold: number;
  readonly #slot: number;
  #length: number;
  #disposed = false;

  /** @internal Use {@link KvCache.createSequence}. */
  constructor(cache: KvCache, slot: number, threshold: number, length = 0) {
    this.cache = cache;
    this.threshold = threshold;
    this.#slot = slot;
    this.#length = length;
  }

  /** Tokens in the cache, as of the last step that was awaited, whatever came of it. */
  get length(): number {
    return this.#length;
  }

  /** @internal Called by whoever ran `insert`, once it is known to have succeeded. */
  advance(tokens: number): void {
    this.#length += tokens;
  }

  /** @internal Called by whoever ran a step that failed: `insert` may have been done all the same. */
  async recount(): Promise<void> {
    if (this.#disposed || this.cache.disposed) return;
    this.#length = (await this.stats()).length;
  }

  /** Where the sequence lies in its cache, for the `slots` tensor of operations. */
  get slot(): number {
    if (this.#disposed) throw new SpkvError('DISPOSED', 'The sequence has been disposed');
    return this.#slot;
  }

  /** Whether its pages have been given back. */
  get disposed(): boolean {
    return this.#disposed;
  }

  /** Its length and what it holds, as of the work enqueued so far. Errors: DISPOSED. */
  stats(): Promise<SequenceStats> {
    return settle(native().sequenceStats(this.cache.handle, this.slot));
  }

  /**
   * The pages that the sequence will take from the pool as if it were alone: element i is for its next i + 1 tokens,
   * copies of shared pages included. What leaves the window has been judged when it came in, so this is exact for as
   * many tokens as the window has; further on it is what will do if everything is kept.
   */
  async forecast(tokens: number): Promise<Int32Array> {
    const [pages] = await this.cache.forecast([this], tokens);
    return pages!;
  }

  /** A second sequence with the same content. Pages are shared until one of the two writes to them. */
  async fork(): Promise<Sequence> {
    const slot = await settle(native().forkSequence(this.cache.handle, this.slot));
    return new Sequence(this.cache, slot, this.threshold, this.#length);
  }

  /** Takes back the last `tokens` tokens, exactly; at most the cache's slack. */
  async rewind(tokens: number): Promise<void> {
    await settle(native().rewindSequence(this.cache.handle, this.slot, integer(tokens, 'tokens', 0, 2 ** 31 - 1)));
    this.#length -= tokens;
  }

  /** The sequence as bytes with a checksum, for {@link KvCache.restoreSequence}. */
  async save(): Promise<Uint8Array> {
    const body = await settle(native().saveSequence(this.cache.handle, this.slot));
    return Buffer.concat([body, digest(body)]);
  }

  /** Gives the pages back to the pool, after the work enqueued so far. Safe to call twice. */
  async dispose(): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    if (this.cache.disposed) return; // the pages have gone with it
    await settle(native().releaseSequence(this.cache.handle, this.#slot));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }
}

/** The shortest decimal number of those that the device, which keeps f32, takes for the same: what was once given. */
function shortest(single: number): number {
  for (let digits = 1; digits < 9; digits++) {
    const decimal = Number(single.toPrecision(digits));
    if (Math.fround(decimal) === single) return decimal;
  }
  return single;
}

const DIGEST_BYTES = 32;

function digest(bytes: Uint8Array): Buffer {
  return createHash('sha256').update(bytes).digest();
}
