import type { Range } from './patterns.js';

/** A set of characters: code points in rising ranges that do not touch. */
export type CodePoints = readonly Range[];

/**
 * All characters of texts. Surrogates are none, and U+FEFF is left out: where a text begins with it, decoders take it
 * for a byte order mark and drop it.
 */
export const ALL: CodePoints = [[0, 0xd7ff], [0xe000, 0xfefe], [0xff00, 0x10ffff]];

export function union(...sets: readonly CodePoints[]): CodePoints {
  const merged: [number, number][] = [];
  for (const [low, high] of sets.flat().sort((a, b) => a[0] - b[0])) {
    const last = merged.at(-1);
    if (last && low <= last[1] + 1) last[1] = Math.max(last[1], high);
    else merged.push([low, high]);
  }
  return merged;
}

export function intersection(a: CodePoints, b: CodePoints): CodePoints {
  const common: Range[] = [];
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    const low = Math.max(a[i]![0], b[j]![0]);
    const high = Math.min(a[i]![1], b[j]![1]);
    if (low <= high) common.push([low, high]);
    if (a[i]![1] < b[j]![1]) i++;
    else j++;
  }
  return common;
}

/** The characters that are not in a set. */
export function complement(set: CodePoints): CodePoints {
  const others: Range[] = [];
  let next = 0;
  for (const [low, high] of set) {
    if (next < low) others.push([next, low - 1]);
    next = high + 1;
  }
  if (next <= 0x10ffff) others.push([next, 0x10ffff]);
  return intersection(others, ALL);
}

/** The set of the characters of a text. */
export function charactersOf(text: string): CodePoints {
  return union(Array.from(text, (char) => [char.codePointAt(0)!, char.codePointAt(0)!] as const));
}
