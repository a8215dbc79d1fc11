import type { CacheDType, KvCache, Sequence } from './cache.js';

/** What a sequence holds in the cache, against a cache that keeps everything. */
export interface CacheReport {
  /** Tokens in the cache. */
  length: number;
  threshold: number;
  window: number;
  /** Kept pairs as a share of the pairs that have left the window; 1 while none has. */
  density: number;
  /** The same for each layer and KV head. */
  densities: number[][];
  /** Pairs held, those in the window included, over all layers and KV heads. */
  pairs: number;
  /** Pairs that a dense cache would hold. */
  densePairs: number;
  /** Bytes of the pages held, half-filled ones included. */
  bytes: number;
  /** Bytes of a dense cache of the same storage type, with no page ever half empty. */
  denseBytes: number;
}

/** What a sequence holds now, as of the work enqueued so far. Errors: DISPOSED. */
export async function reportCache(sequence: Sequence): Promise<CacheReport> {
  const { cache } = sequence;
  const { length, kept, pages } = await sequence.stats();
  const { pageBytes } = await cache.stats();
  const { layers, kvHeads, window } = cache;
  const left = Math.max(0, length - window);
  const share = (count: number) => (left === 0 ? 1 : count / left);
  const total = kept.reduce((sum, count) => sum + count, 0);
  const lists = layers * kvHeads;
  return {
    length,
    threshold: sequence.threshold,
    window,
    density: share(total / lists),
    densities: Array.from({ length: layers }, (_, layer) =>
      Array.from({ length: kvHeads }, (_, head) => share(kept[layer * kvHeads + head]!)),
    ),
    pairs: total + lists * Math.min(length, window),
    densePairs: lists * length,
    bytes: pages * pageBytes,
    denseBytes: lists * length * pairBytes(cache),
  };
}

const BYTES: Record<CacheDType, number> = { f32: 4, bf16: 2, fp8: 1 };

/** Bytes of one key/value pair of one layer and KV head; in fp8 with its two scales. */
export function pairBytes({ headDim, dtype }: Pick<KvCache, 'headDim' | 'dtype'>): number {
  return 2 * (headDim * BYTES[dtype] + (dtype === 'fp8' ? 1 : 0));
}
