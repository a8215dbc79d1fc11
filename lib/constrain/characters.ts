// Characters as the bytes that stand for them: in UTF-8, or within a string of JSON.
import { ALL, charactersOf, type CodePoints, complement, intersection } from './code-points.js';
import { bytes, choice, literal, type Pattern, type Range, repeat, sequence } from './patterns.js';

/** How one character of a set is written. */
export type Write = (set: CodePoints) => Pattern;

/** The last code points of one, two, three and four bytes, and the bits of their first bytes. */
const FORMS: readonly { last: number; mark: number }[] = [
  { last: 0x7f, mark: 0 }, { last: 0x7ff, mark: 0xc0 }, { last: 0xffff, mark: 0xe0 }, { last: 0x10ffff, mark: 0xf0 },
];

/** In UTF-8. */
export const writeUtf8: Write = (set) => {
  const single: Range[] = [];
  const longer: Pattern[] = [];
  for (const range of intersection(set, ALL)) {
    let [low] = range;
    for (const [count, { last, mark }] of FORMS.entries()) {
      const high = Math.min(range[1], last);
      if (low > high) continue;
      if (count === 0) single.push([low, high]);
      else longer.push(...encoded(low, high, count, mark));
      low = high + 1;
    }
  }
  return choice(...(single.length > 0 ? [bytes(...single)] : []), ...longer);
};

/** The code points from `low` to `high` as sequences of a first byte with `mark` and `count` more: of each byte a range. */
function encoded(low: number, high: number, count: number, mark: number): Pattern[] {
  if (count === 0) return [bytes([mark | low, mark | high])];
  const size = 64 ** count; // code points with the same first byte
  const [first, last] = [Math.floor(low / size), Math.floor(high / size)];
  const whole = (from: number, to: number) => sequence(bytes([mark | from, mark | to]), repeat(bytes([0x80, 0xbf]), count, count));
  const within = (byte: number, from: number, to: number) =>
    encoded(from, to, count - 1, 0x80).map((rest) => sequence(bytes([mark | byte, mark | byte]), rest));
  if (first === last && !(low === first * size && high === (first + 1) * size - 1)) return within(first, low - first * size, high - first * size);
  const begun = low === first * size ? first : first + 1;
  const ended = high === (last + 1) * size - 1 ? last : last - 1;
  return [
    ...(begun > first ? within(first, low - first * size, size - 1) : []),
    ...(begun <= ended ? [whole(begun, ended)] : []),
    ...(ended < last ? within(last, 0, high - last * size) : []),
  ];
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
