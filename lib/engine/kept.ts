import type { KvCache } from '../ops.js';

/** What becomes of a token's pairs when they leave the window. The last token of a text is never read, and so not judged. */
export interface KeptToken {
  id: number;
  /** [layers * kvHeads]: 1 where the pair is kept, 0 where it is dropped. */
  kept: Uint8Array;
}

/**
 * What a step keeps of its tokens [start, end), by its utilities [L, T, G]; without any, all. The comparison is that
 * of `insert`, in f32.
 */
export function keptOf({ layers, kvHeads }: KvCache, utilities: Float32Array | undefined, threshold: number, start: number, end: number): Uint8Array[] {
  const least = Math.fround(threshold);
  const stride = utilities ? utilities.length / layers : 0;
  return Array.from({ length: end - start }, (_, i) => {
    const kept = new Uint8Array(layers * kvHeads).fill(1);
    if (!utilities) return kept;
    for (let layer = 0; layer < layers; layer++) {
      const from = layer * stride + (start + i) * kvHeads;
      for (let head = 0; head < kvHeads; head++) kept[layer * kvHeads + head] = Number(utilities[from + head]! >= least);
    }
    return kept;
  });
}
