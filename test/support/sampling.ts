// Sampling written out in float64, and its random numbers in integers of any size.

/**
 * The most additions that follow each other in the sum of V exponentials: blocks of 2048 over 4 lanes or more, and
 * their sums in float64. The largest of them is 1, so that each rounds the sum by one f32 rounding of it at most.
 */
export const chainOf = (V: number): number => Math.min(V, 2048) / 4;

export interface Settings {
  temperature: number;
  topK: number;
  topP: number;
  minP: number;
  repetition: number;
  frequency: number;
  presence: number;
}
export const NEUTRAL: Settings = { temperature: 1, topK: 0, topP: 1, minP: 0, repetition: 1, frequency: 0, presence: 0 };

export const row = (settings: Partial<Settings>): number[] => {
  const { temperature, topK, topP, minP, repetition, frequency, presence } = { ...NEUTRAL, ...settings };
  return [temperature, topK, topP, minP, repetition, frequency, presence];
};

/** Philox4x32-10 after Salmon et al., SC 2011, in integers of any size. */
export function philox(counter: bigint[], key: bigint[]): bigint[] {
  const mask = 0xffffffffn;
  let [c0, c1, c2, c3] = counter as [bigint, bigint, bigint, bigint];
  let [k0, k1] = key as [bigint, bigint];
  for (let round = 0; round < 10; round++) {
    const a = 0xd2511f53n * c0;
    const b = 0xcd9e8d57n * c2;
    [c0, c1, c2, c3] = [(b >> 32n) ^ c1 ^ k0, b & mask, (a >> 32n) ^ c3 ^ k1, a & mask];
    [k0, k1] = [(k0 + 0x9e3779b9n) & mask, (k1 + 0xbb67ae85n) & mask];
  }
  return [c0, c1, c2, c3];
}

export function uniformOf(seed: readonly [number, number], position: number): number {
  const unsigned = (value: number) => BigInt(value >>> 0);
  const [high, low] = philox([unsigned(position), 0n, 0n, 0n], seed.map(unsigned)) as [bigint, bigint];
  return Number((high << 21n) ^ (low >> 11n)) / 2 ** 53;
}

export function penalized(logits: Float32Array, settings: Settings, history?: Int32Array): Float64Array {
  return Float64Array.from(logits, (logit, id) => {
    const seen = history?.[id] ?? 0;
    const count = seen >> 1;
    const repeated = seen === 0 ? logit : logit > 0 ? logit / settings.repetition : logit * settings.repetition;
    return repeated - settings.frequency * count - (count > 0 ? settings.presence : 0);
  });
}

/**
 * What the filters leave, in falling order, with probabilities; `margin` is how near a filter came to a
 * decision that rounding could turn.
 */
export function filtered(x: Float64Array, settings: Settings): { ids: number[]; probabilities: number[]; margin: number } {
  let ids = Array.from(x.keys()).sort((a, b) => x[b]! - x[a]! || a - b);
  let margin = 1;
  const weight = (id: number) => Math.exp((x[id]! - x[ids[0]!]!) / Math.fround(settings.temperature));
  const total = () => ids.reduce((sum, id) => sum + weight(id), 0);
  if (settings.topK > 0) ids = ids.slice(0, settings.topK);
  if (settings.topP < 1) {
    const all = total();
    let reached = 0;
    let count = 0;
    do {
      reached += weight(ids[count++]!) / all;
      margin = Math.min(margin, Math.abs(reached - Math.fround(settings.topP)));
    } while (reached < Math.fround(settings.topP) && count < ids.length);
    ids = ids.slice(0, count);
  }
  if (settings.minP > 0) {
    const least = Math.fround(settings.minP);
    for (const id of ids) if (id !== ids[0]) margin = Math.min(margin, Math.abs(weight(id) / least - 1));
    ids = ids.filter((id) => weight(id) >= least);
  }
  const all = total();
  return { ids, probabilities: ids.map((id) => weight(id) / all), margin };
}

export function naive(x: Float64Array, settings: Settings, uniform: number): { id: number; margin: number } {
  if (settings.temperature === 0) return { id: x.reduce((best, value, id) => (value > x[best]! ? id : best), 0), margin: 1 };
  const { ids, probabilities, margin } = filtered(x, settings);
  let reached = 0;
  let near = margin;
  for (const [i, probability] of probabilities.entries()) {
    reached += probability;
    near = Math.min(near, Math.abs(reached - uniform));
    if (reached > uniform) return { id: ids[i]!, margin: near };
  }
  return { id: ids[ids.length - 1]!, margin: 0 };
}
