import type { ModelConfig } from '../checkpoint/config.js';
import * as ops from '../ops.js';
import type { Device, KvCache, Sequence } from '../ops.js';
import { WINDOW } from './geometries.js';
import { normals, uniform } from '../random.js';

/** Numbers of one insertion: a compromise between launches and memory. */
const CHUNK_NUMBERS = 1 << 25;
/** Random numbers that are drawn at all. A prime, so that they come together with other lists every time. */
const NOISE = 1_048_573;

/**
 * Lets sequences see `tokens` random pairs each, of which list i keeps the share densities[i]. Every sequence
 * gets its own draw of what is kept.
 */
export async function fillSequences(
  device: Device, config: ModelConfig, cache: KvCache, sequences: readonly Sequence[], tokens: number, densities: Float32Array,
  onProgress?: (share: number) => void, signal?: AbortSignal,
): Promise<void> {
  const { layers, kvHeads, headDim } = config;
  const chunk = Math.max(1, Math.min(tokens, Math.floor(CHUNK_NUMBERS / (layers * kvHeads * headDim))));
  const next = uniform(2);
  using pairs = device.from(repeated(normals(NOISE, next), layers * chunk * kvHeads * headDim), [layers, chunk, kvHeads, headDim]);
  using utilities = device.tensor('f32', [layers, chunk, kvHeads]);
  const drawn = new Float32Array(layers * chunk * kvHeads);
  const noise = Float32Array.from({ length: NOISE }, next);
  for (const [index, sequence] of sequences.entries()) {
    using slots = device.from(Int32Array.of(sequence.slot));
    for (let start = 0; start < tokens; start += chunk) {
      signal?.throwIfAborted();
      const count = Math.min(chunk, tokens - start);
      using offsets = device.from(Int32Array.of(0, count));
      drawUtilities(drawn, chunk, kvHeads, densities, noise, Math.floor(next() * NOISE));
      utilities.write(drawn);
      const part = pairs.slice(1, 0, count);
      ops.insert(cache, part, part, utilities.slice(1, 0, count), slots, offsets);
      await device.synchronize();
      sequence.advance(count);
      onProgress?.((index + (start + count) / tokens) / sequences.length);
    }
  }
}

/** utilities [L, chunk, G]: list i of [L, G] keeps the share densities[i], by the draws of `noise` from `start` on. */
function drawUtilities(utilities: Float32Array, chunk: number, kvHeads: number, densities: Float32Array, noise: Float32Array, start: number): void {
  let at = start;
  for (let i = 0; i < utilities.length; i++) {
    const list = Math.floor(i / (chunk * kvHeads)) * kvHeads + (i % kvHeads);
    utilities[i] = noise[at]! < densities[list]! ? 0.9 : 0.1;
    if (++at === noise.length) at = 0;
  }
}

/** The values one after another, again and again. */
function repeated(values: Float32Array, count: number): Float32Array {
  const all = new Float32Array(count);
  for (let start = 0; start < count; start += values.length) all.set(values.subarray(0, count - start), start);
  return all;
}

/** Pages that lists of these densities need at most, with room for a draw above its mean. */
export function pagesNeeded(batch: number, tokens: number, densities: Float32Array): number {
  const ring = Math.ceil(WINDOW / ops.PAGE_TOKENS);
  let pages = 0;
  for (const density of densities) {
    const spread = 5 * Math.sqrt(tokens * density * (1 - density));
    pages += ring + Math.ceil(Math.min(tokens, tokens * density + spread) / ops.PAGE_TOKENS) + 2;
  }
  return pages * batch;
}
