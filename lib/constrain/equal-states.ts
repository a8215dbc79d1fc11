import type { Automaton } from './automaton.js';

/**
 * For each state the first one that no token can tell from it: from both, the same texts of up to `length` bytes lead
 * somewhere, and to an end of the rule. So the middle of a long string of limited length is one state as far as tokens are
 * concerned. Only states that make no calls, nor lead to any, are compared. Compared are fingerprints of 64 bits with a
 * random start.
 */
export function equalStates({ accepting, edgeStarts, low, high, to, callStarts }: Automaton, length: number): Int32Array {
  const count = accepting.length;
  const [seed, other] = [(Math.random() * 2 ** 32) | 0, (Math.random() * 2 ** 32) | 0];
  let [a, b, nextA, nextB] = [new Int32Array(count), new Int32Array(count), new Int32Array(count), new Int32Array(count)];
  for (let round = 0; round <= length; round++) {
    for (let state = 0; state < count; state++) {
      let [x, y] = [seed ^ accepting[state]!, other ^ accepting[state]!];
      for (let edge = edgeStarts[state]!; edge < edgeStarts[state + 1]!; edge++) {
        const range = (low[edge]! << 8) | high[edge]!;
        x = mix(mix(x, range), a[to[edge]!]!);
        y = mix(mix(y, b[to[edge]!]!), range);
      }
      nextA[state] = x;
      nextB[state] = y;
    }
    [a, b, nextA, nextB] = [nextA, nextB, a, b];
  }
  const plain = plainStates({ edgeStarts, to, callStarts }, count);
  const first = new Map<string, number>();
  return Int32Array.from({ length: count }, (_, state) => {
    if (!plain[state]) return state;
    const print = `${a[state]!} ${b[state]!}`;
    const known = first.get(print);
    if (known === undefined) first.set(print, state);
    return known ?? state;
  });
}

function mix(hash: number, value: number): number {
  let x = Math.imul(hash ^ value, 0x9e3779b1);
  x = Math.imul(x ^ (x >>> 15), 0x85ebca6b);
  return x ^ (x >>> 13);
}

/** States from which no call can be reached. */
function plainStates({ edgeStarts, to, callStarts }: Pick<Automaton, 'edgeStarts' | 'to' | 'callStarts'>, count: number): boolean[] {
  const plain = Array.from({ length: count }, (_, state) => callStarts[state] === callStarts[state + 1]);
  for (let changed = true; changed; ) {
    changed = false;
    for (let state = count - 1; state >= 0; state--) {
      for (let edge = edgeStarts[state]!; plain[state] && edge < edgeStarts[state + 1]!; edge++) {
        if (plain[to[edge]!]) continue;
        plain[state] = false;
        changed = true;
      }
    }
  }
  return plain;
}
