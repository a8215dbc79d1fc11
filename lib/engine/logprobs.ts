export interface TokenLogprobs {
  /** Log-probability of the token under the model, in nats, before temperature and penalties. */
  logprob: number;
  /** The likeliest tokens at this place, in falling order (ties by id). */
  top: { id: number; logprob: number }[];
}

/** The log-probability of `id` under logits [V], and the `count` largest. */
export function tokenLogprobs(logits: Float32Array, id: number, count: number): TokenLogprobs {
  let largest = -Infinity;
  for (let i = 0; i < logits.length; i++) if (logits[i]! > largest) largest = logits[i]!;
  let sum = 0;
  for (let i = 0; i < logits.length; i++) sum += Math.exp(logits[i]! - largest);
  const normalizer = largest + Math.log(sum);
  return {
    logprob: logits[id]! - normalizer,
    top: largestOf(logits, count).map((token) => ({ id: token, logprob: logits[token]! - normalizer })),
  };
}

/** The indices of the `count` largest, in falling order. */
function largestOf(values: Float32Array, count: number): number[] {
  const best: number[] = [];
  for (let i = 0; i < values.length && count > 0; i++) {
    if (best.length === count && values[i]! <= values[best[count - 1]!]!) continue;
    let place = best.length;
    while (place > 0 && values[best[place - 1]!]! < values[i]!) place--;
    best.splice(place, 0, i);
    if (best.length > count) best.pop();
  }
  return best;
}
