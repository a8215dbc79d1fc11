// Numbers of JSON between bounds, in decimal digits. There are at most 15 digits before and after the point together
// (16 in integers): that many tell doubles apart, so what lies between the bounds as it is written also does as a double.
import { both, bytes, choice, EMPTY, literal, NEVER, optional, type Pattern, repeat, sequence } from './patterns.js';

const DIGITS = 15;
const INTEGER_DIGITS = 16;

export interface Bounds {
  low?: Bound | undefined;
  high?: Bound | undefined;
}

export interface Bound {
  value: number;
  /** Whether the value itself lies outside. */
  exclusive: boolean;
}

const from = (low: number, high: number): Pattern => (low > high ? NEVER : bytes([0x30 + low, 0x30 + high]));
const ANY = from(0, 9);
const some = (min: number, max = Infinity): Pattern => repeat(ANY, min, max);
/** Digits of a whole number without leading zeros. */
const whole = (min: number, max: number): Pattern => choice(...(min <= 1 ? [literal('0')] : []), sequence(from(1, 9), some(min - 1, max - 1)));
const MINUS = literal('-');
const FRACTION = optional(sequence(literal('.'), some(1)));
const ANY_SIZE = sequence(whole(1, INTEGER_DIGITS), FRACTION);

/** With digits as in the comment above. */
const DECIMAL = sequence(
  optional(MINUS),
  choice(...Array.from({ length: DIGITS }, (_, i) => sequence(whole(i + 1, i + 1), i + 1 < DIGITS ? optional(sequence(literal('.'), some(1, DIGITS - i - 1))) : EMPTY))),
);
const EXPONENT = sequence(bytes([0x45, 0x45], [0x65, 0x65]), optional(bytes([0x2b, 0x2b], [0x2d, 0x2d])), some(1, 2));

export function numberPattern({ low, high }: Bounds): Pattern {
  if (!low && !high) return sequence(DECIMAL, optional(EXPONENT));
  return [low && above(low, false), high && below(high, false)].reduce((a: Pattern, b) => (b ? both(a, b) : a), DECIMAL);
}

export function integerPattern({ low, high }: Bounds): Pattern {
  if (!low && !high) return sequence(optional(MINUS), whole(1, DIGITS));
  // The first and the last integer between the bounds.
  const first = low && { value: low.exclusive ? Math.floor(low.value) + 1 : Math.ceil(low.value), exclusive: false };
  const last = high && { value: high.exclusive ? Math.ceil(high.value) - 1 : Math.floor(high.value), exclusive: false };
  const shape = sequence(optional(MINUS), whole(1, INTEGER_DIGITS));
  return [first && above(first, true), last && below(last, true)].reduce((a: Pattern, b) => (b ? both(a, b) : a), shape);
}

/** All numbers from a bound on. */
function above(bound: Bound, integers: boolean): Pattern {
  const { value, exclusive } = bound;
  const all = integers ? whole(1, INTEGER_DIGITS) : ANY_SIZE;
  if (value > 0 || (value === 0 && exclusive)) return magnitude(bound, 'at least', integers);
  if (value === 0) return all;
  return choice(all, sequence(MINUS, magnitude({ value: -value, exclusive }, 'at most', integers)));
}

/** All numbers up to a bound. */
function below({ value, exclusive }: Bound, integers: boolean): Pattern {
  const all = integers ? whole(1, INTEGER_DIGITS) : ANY_SIZE;
  if (value < 0 || (value === 0 && exclusive)) return sequence(MINUS, magnitude({ value: -value, exclusive }, 'at least', integers));
  return choice(sequence(MINUS, all), magnitude({ value, exclusive }, 'at most', integers));
}

/** Numbers without a sign on one side of a bound that is not negative. */
function magnitude({ value, exclusive }: Bound, side: 'at least' | 'at most', integers: boolean): Pattern {
  const [digits, fraction] = decimal(value);
  const same = side === 'at least' ? atLeast(digits) : atMost(digits);
  const longer = digits.length < INTEGER_DIGITS ? whole(digits.length + 1, INTEGER_DIGITS) : NEVER;
  const shorter = digits.length > 1 ? whole(1, digits.length - 1) : NEVER;
  if (digits.length > INTEGER_DIGITS) return side === 'at least' ? NEVER : integers ? whole(1, INTEGER_DIGITS) : ANY_SIZE;
  const beside = side === 'at least' ? longer : shorter;
  if (integers) return choice(beside, same);
  const others = both(same, choice(...differs(digits)));
  const last = side === 'at least' ? fractionAbove(fraction, exclusive) : fractionBelow(fraction, exclusive);
  return choice(sequence(choice(beside, others), FRACTION), sequence(literal(digits), last));
}

/** Whole numbers of as many digits that are at least as large. */
function atLeast(digits: string): Pattern {
  return Array.from(digits, Number).reduceRight<Pattern>(
    (rest, digit, i) => choice(sequence(from(digit + 1, 9), some(digits.length - i - 1, digits.length - i - 1)), sequence(from(digit, digit), rest)), EMPTY,
  );
}

/** Whole numbers of as many digits, without leading zeros, that are at most as large. */
function atMost(digits: string): Pattern {
  return Array.from(digits, Number).reduceRight<Pattern>(
    (rest, digit, i) =>
      choice(sequence(from(i === 0 && digits.length > 1 ? 1 : 0, digit - 1), some(digits.length - i - 1, digits.length - i - 1)), sequence(from(digit, digit), rest)),
    EMPTY,
  );
}

/** Of as many digits, any others. */
function differs(digits: string): Pattern[] {
  return Array.from(digits, (digit, i) =>
    sequence(literal(digits.slice(0, i)), choice(from(0, Number(digit) - 1), from(Number(digit) + 1, 9)), some(digits.length - i - 1, digits.length - i - 1)),
  );
}

/** With the point, which is left out where no digits follow: at least (or above) 0.`digits`. */
function fractionAbove(digits: string, exclusive: boolean): Pattern {
  const more = exclusive ? sequence(repeat(literal('0')), from(1, 9), some(0)) : some(0);
  if (digits === '') return exclusive ? sequence(literal('.'), more) : FRACTION;
  const compared = Array.from(digits, Number).reduceRight<Pattern>(
    (rest, digit) => choice(sequence(from(digit + 1, 9), some(0)), sequence(from(digit, digit), rest)), more,
  );
  return sequence(literal('.'), compared);
}

/** At most (or below) 0.`digits`, whose last digit is not 0. */
function fractionBelow(digits: string, exclusive: boolean): Pattern {
  const zeros = optional(sequence(literal('.'), repeat(literal('0'), 1)));
  if (digits === '') return exclusive ? NEVER : zeros;
  const compared = Array.from(digits, Number).reduceRight<Pattern>((rest, digit, i) => {
    const lower = choice(sequence(from(0, digit - 1), some(0)), sequence(from(digit, digit), rest));
    return i === 0 ? lower : optional(lower); // what ends before the bound does is less
  }, exclusive ? NEVER : repeat(literal('0')));
  return optional(sequence(literal('.'), compared));
}

/** Digits before and after the point of a number that is not negative. */
function decimal(value: number): [whole: string, fraction: string] {
  const [mantissa, exponent = '0'] = String(value).split('e') as [string, string?];
  const [before, after = ''] = mantissa.split('.') as [string, string?];
  const shift = Number(exponent);
  const digits = before + after;
  const point = before.length + shift;
  const padded = point <= 0 ? '0'.repeat(1 - point) + digits : digits.padEnd(point, '0');
  const at = point <= 0 ? 1 : point;
  return [padded.slice(0, at).replace(/^0+(?=\d)/, ''), padded.slice(at).replace(/0+$/, '')];
}
