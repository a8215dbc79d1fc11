// The oracle of the attention tests: plain loops in float64 over every pair that a sequence ever had.
import { bf16ToFloats, floatsToBf16 } from '../../lib/ops.js';
import { F32_ROUNDING } from './operands.js';

// Jest looks globals up slowly, and these loops are long.
const { abs, exp, max } = Math;
const ABSENT = -Infinity;

export interface Pair {
  key: Float32Array;
  value: Float32Array;
  utility: number;
}

export interface Attended {
  out: Float64Array;
  /** How far an f32 computation may be off, from the roundings that it cannot avoid. */
  tolerance: number;
}

/**
 * One query row over pairs with gates that are added to the scores; -Infinity removes a pair. A score is off by
 * at most D + 2 roundings of its terms' sizes, a weight by that twice (it is divided by a sum of weights), by the
 * exponential and by one rounding for every pair added.
 */
export function attend(q: ArrayLike<number>, pairs: readonly Pair[], gates: ArrayLike<number>, scale: number): Attended {
  const D = q.length;
  const scores = new Float64Array(pairs.length);
  let size = 0;
  let largest = 0;
  let highest = ABSENT;
  for (let s = 0; s < pairs.length; s++) {
    if (gates[s] === ABSENT) {
      scores[s] = ABSENT;
      continue;
    }
    const { key, value } = pairs[s]!;
    let [dot, terms] = [0, 0];
    for (let d = 0; d < D; d++) {
      const term = q[d]! * key[d]! * scale;
      dot += term;
      terms += abs(term);
      largest = max(largest, abs(value[d]!));
    }
    scores[s] = dot + gates[s]!;
    size = max(size, terms + abs(gates[s]!));
    highest = max(highest, scores[s]!);
  }
  const out = new Float64Array(D);
  let sum = 0;
  let seen = 0;
  for (let s = 0; s < pairs.length; s++) {
    if (scores[s] === ABSENT) continue;
    const weight = exp(scores[s]! - highest);
    sum += weight;
    seen++;
    for (let d = 0; d < D; d++) out[d]! += weight * pairs[s]!.value[d]!;
  }
  for (let d = 0; d < D; d++) out[d]! /= sum;
  const relative = 2 * (D + 2) * size + 2 * (seen + 8);
  return { out, tolerance: F32_ROUNDING * relative * max(largest, 2 ** -40) };
}

/** Everything that a sequence was given, list by list: [layers * kvHeads] of one pair per position. */
export class ReferenceSequence {
  readonly threshold: number;
  readonly lists: Pair[][];

  constructor(lists: number | Pair[][], threshold: number) {
    this.threshold = threshold;
    this.lists = typeof lists === 'number' ? Array.from({ length: lists }, () => []) : lists.map((list) => [...list]);
  }

  get length(): number {
    return this.lists[0]!.length;
  }

  fork(): ReferenceSequence {
    return new ReferenceSequence(this.lists, this.threshold);
  }

  rewind(tokens: number): void {
    for (const list of this.lists) list.length -= tokens;
  }

  /** Adds pairs as a cache of `dtype` holds them. */
  append(list: number, pairs: readonly Pair[], dtype: 'f32' | 'bf16'): void {
    for (const { key, value, utility } of pairs) this.lists[list]!.push({ key: stored(key, dtype), value: stored(value, dtype), utility });
  }

  /** Pairs that were kept when they left the window, by list. */
  kept(window: number): number[] {
    return this.lists.map((list) => list.slice(0, max(0, list.length - window)).filter((pair) => pair.utility >= this.threshold).length);
  }

  /** The query at position t, over its list and the pairs of its own step. */
  attend(q: ArrayLike<number>, list: number, step: readonly Pair[], t: number, window: number, scale: number): Attended {
    const visible = (pair: Pair, s: number) => s <= t && (t - s < window || pair.utility >= this.threshold);
    const cached = this.lists[list]!;
    const pairs = [...cached.filter(visible), ...step.filter((pair, i) => visible(pair, cached.length + i))];
    return attend(q, pairs, new Float64Array(pairs.length), scale);
  }
}

function stored(row: Float32Array, dtype: 'f32' | 'bf16'): Float32Array {
  return dtype === 'f32' ? row : bf16ToFloats(floatsToBf16(row));
}
