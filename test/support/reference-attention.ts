// The oracle of the attention tests: plain loops in float64 over every pair that a sequence ever had.
import { bf16ToFloats, type CacheDType, floatsToBf16 } from '../../lib/ops.js';
import { BF16_ROUNDING, F32_ROUNDING } from './operands.js';

// Jest looks globals up slowly, and these loops are long.
const { abs, exp, expm1, floor, max, sign } = Math;
const ABSENT = -Infinity;

export interface Pair {
  key: Float32Array;
  value: Float32Array;
  utility: number;
}

export interface Attended {
  out: Float64Array;
  /** How far a computation may be off, from the roundings that it cannot avoid. */
  tolerance: number;
}

/**
 * One query row over pairs with gates that are added to the scores; -Infinity removes a pair. A score is off by
 * at most D + 2 roundings of its terms' sizes, a weight by that twice (it is divided by a sum of weights), by the
 * exponential and by one rounding for every pair added. `multiplied` in bf16, see `bf16Tolerance`, too.
 */
export function attend(
  q: ArrayLike<number>, pairs: readonly Pair[], gates: ArrayLike<number>, scale: number, multiplied: 'f32' | 'bf16' = 'f32',
): Attended {
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
  let tolerance = F32_ROUNDING * relative * max(largest, 2 ** -40);
  if (multiplied === 'bf16') tolerance += bf16Tolerance(q, pairs, scores.map((score) => exp(score - highest) / sum), scale, largest);
  return { out, tolerance };
}

/**
 * What more it costs to multiply bf16 numbers. With the query and the keys rounded, score s is off by at most
 *
 *   shift[s] = |scale| * sum_d |q[d]| e(k[s, d]) + e(q[d]) |k[s, d]| + e(q[d]) e(k[s, d]),   e(x) = |x - bf16(x)|
 *
 * which changes out = sum_s w[s] v[s] by at most sum_s w[s] (exp(shift[s]) - 1) exp(max shift) |v[s] - out|, and
 * |v[s] - out| <= 2 largest. To that come e(v[s]), and one rounding of each weight. Numbers that are bf16 cost the
 * rounding of the weights only.
 */
function bf16Tolerance(q: ArrayLike<number>, pairs: readonly Pair[], weights: Float64Array, scale: number, largest: number): number {
  const errorsOf = (row: ArrayLike<number>) => stored(Float32Array.from(row), 'bf16').map((x, d) => abs(x - row[d]!));
  const queryErrors = errorsOf(q);
  let [shifted, worst, valueError] = [0, 0, 0];
  pairs.forEach(({ key, value }, s) => {
    if (weights[s] === 0) return;
    const keyErrors = errorsOf(key);
    let shift = 0;
    for (let d = 0; d < q.length; d++) shift += abs(q[d]!) * keyErrors[d]! + queryErrors[d]! * (abs(key[d]!) + keyErrors[d]!);
    shift *= abs(scale);
    shifted += weights[s]! * expm1(shift);
    worst = max(worst, shift);
    valueError = max(valueError, ...errorsOf(value));
  });
  return 2 * largest * shifted * exp(worst) + valueError + BF16_ROUNDING * (largest + valueError);
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
  append(list: number, pairs: readonly Pair[], dtype: CacheDType): void {
    for (const { key, value, utility } of pairs) this.lists[list]!.push({ key: stored(key, dtype), value: stored(value, dtype), utility });
  }

  /** Pairs that were kept when they left the window, by list. */
  kept(window: number): number[] {
    return this.lists.map((list) => list.slice(0, max(0, list.length - window)).filter((pair) => pair.utility >= this.threshold).length);
  }

  /** The query at position t, over its list and the pairs of its own step. */
  attend(q: ArrayLike<number>, list: number, step: readonly Pair[], t: number, window: number, scale: number, multiplied: 'f32' | 'bf16'): Attended {
    const visible = (pair: Pair, s: number) => s <= t && (t - s < window || pair.utility >= this.threshold);
    const cached = this.lists[list]!;
    const pairs = [...cached.filter(visible), ...step.filter((pair, i) => visible(pair, cached.length + i))];
    return attend(q, pairs, new Float64Array(pairs.length), scale, multiplied);
  }
}

/** A row as a cache of `dtype` holds it. */
export function stored(row: Float32Array, dtype: CacheDType): Float32Array {
  if (dtype === 'fp8') return fp8(row);
  return dtype === 'f32' ? row : bf16ToFloats(floatsToBf16(row));
}

/**
 * The contract of native/core/fp8.h in float64: the scale is the least power of two from 2^-60 with which nothing
 * exceeds 448, and every number goes to the nearest of the e4m3 numbers, ties to the even one of the two.
 */
function fp8(row: Float32Array): Float32Array {
  const largest = row.reduce((most, x) => max(most, abs(x)), 0);
  if (!(largest <= 448 * 2 ** 60)) return new Float32Array(row.length).fill(NaN);
  let scale = 2 ** -60;
  while (largest > 448 * scale) scale *= 2;
  return row.map((x) => {
    // Steps of 1/8 of the power of two below, 2^-9 at least.
    let step = 2 ** -9;
    while (abs(x) / scale >= 16 * step) step *= 2;
    const steps = abs(x) / scale / step;
    const whole = floor(steps);
    const up = steps - whole > 0.5 || (steps - whole === 0.5 && whole % 2 === 1);
    return sign(x) * (whole + (up ? 1 : 0)) * step * scale;
  });
}
