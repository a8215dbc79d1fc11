// Characters as the bytes that stand for them: in UTF-8, or within a string of JSON.
import { ALL, charactersOf, type CodePoints, complement, intersection, union } from './code-points.js';
import { bytes, choice, literal, type Pattern, type Range, sequence } from './patterns.js';

/** How one character of a set is written. */
export type Write = (set: CodePoints) => Pattern;

/** First and last code points of one, two, three and four bytes, and the bits of their first bytes. */
const FORMS: readonly { range: Range; mark: number }[] = [
  { range: [0, 0x7f], mark: 0 }, { range: [0x80, 0x7ff], mark: 0xc0 }, { range: [0x800, 0xffff], mark: 0xe0 }, { range: [0x10000, 0x10ffff], mark: 0xf0 },
];

/** In UTF-8. */
export const writeUtf8: Write = (set) =>
  choice(...FORMS.flatMap(({ range, mark }, count) => encoded(intersection(intersection(set, ALL), [range]), count, mark)));

/**
 * Numbers, six bits to a byte, as a first byte with `mark` and `count` more. First bytes after which the same may come are
 * one way, so that what comes of it is small.
 */
function encoded(set: CodePoints, count: number, mark: number): Pattern[] {
  if (count === 0) return set.length === 0 ? [] : [bytes(...set.map(([low, high]): Range => [mark | low, mark | high]))];
  const size = 64 ** count;
  const rests = new Map<number, Range[]>();
  for (const [low, high] of set) {
    for (let first = Math.floor(low / size); first * size <= high; first++) {
      const rest: Range = [Math.max(0, low - first * size), Math.min(size - 1, high - first * size)];
      rests.set(first, [...(rests.get(first) ?? []), rest]);
    }
  }
  const ways = new Map<string, { firsts: Range[]; rest: CodePoints }>();
  for (const [first, rest] of rests) {
    const key = rest.join(';');
    const way = ways.get(key) ?? { firsts: [], rest };
    way.firsts.push([mark | first, mark | first]);
    ways.set(key, way);
  }
  return [...ways.values()].map(({ firsts, rest }) => sequence(bytes(...union(firsts)), choice(...encoded(rest, count - 1, 0x80))));
}

const SHORT = new Map(Object.entries({ '"': '\\"', '\\': '\\\\', '\b': '\\b', '\f': '\\f', '\n': '\\n', '\r': '\\r', '\t': '\\t' }));
const ESCAPED = charactersOf([...Array.from({ length: 32 }, (_, code) => String.fromCharCode(code)), '"', '\\'].join(''));

/** What stands for itself in a string of JSON. */
export const PLAIN: CodePoints = complement(ESCAPED);

/** In a string of JSON, each character in one way: escaped only where it must be. */
export const writeJson: Write = (set) => {
  const escapes = intersection(set, ESCAPED).flatMap(([low, high]) =>
    Array.from({ length: high - low + 1 }, (_, i) => {
      const char = String.fromCharCode(low + i);
      return literal(SHORT.get(char) ?? `\\u${(low + i).toString(16).padStart(4, '0')}`);
    }),
  );
  return choice(writeUtf8(intersection(set, PLAIN)), ...escapes);
};

const hex = (...ranges: readonly Range[]): Pattern => bytes(...ranges);
const DIGIT = hex([0x30, 0x39], [0x41, 0x46], [0x61, 0x66]);
const D = hex([0x44, 0x44], [0x64, 0x64]);

/** Any character in a string of JSON, in any way; halves of surrogate pairs do not stand alone. */
export const JSON_CHARACTER: Pattern = choice(
  writeUtf8(PLAIN),
  sequence(literal('\\'), bytes(...charactersOf('"\\/bfnrt'))),
  sequence(literal('\\u'), choice(sequence(hex([0x30, 0x39], [0x41, 0x43], [0x45, 0x46], [0x61, 0x63], [0x65, 0x66]), DIGIT), sequence(D, hex([0x30, 0x37]))), DIGIT, DIGIT),
  sequence(literal('\\u'), D, hex([0x38, 0x39], [0x41, 0x42], [0x61, 0x62]), DIGIT, DIGIT, literal('\\u'), D, hex([0x43, 0x46], [0x63, 0x66]), DIGIT, DIGIT),
);
