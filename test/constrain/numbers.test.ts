import fc from 'fast-check';
import { buildAutomaton } from '../../lib/constrain/automaton.js';
import { type Bounds, integerPattern, numberPattern } from '../../lib/constrain/numbers.js';
import { fits } from '../support/constraints.js';

const bound = (value: fc.Arbitrary<number>) => fc.option(fc.record({ value, exclusive: fc.boolean() }), { nil: undefined });
const boundsOf = (value: fc.Arbitrary<number>): fc.Arbitrary<Bounds> => fc.record({ low: bound(value), high: bound(value) });
const inside = (x: number, { low, high }: Bounds) =>
  (!low || x > low.value || (x === low.value && !low.exclusive)) && (!high || x < high.value || (x === high.value && !high.exclusive));

const small = fc.integer({ min: -120, max: 120 });
const decimals = fc.oneof(small, small.map((x) => x / 100), small.map((x) => x / 8), fc.constantFrom(0, 1e-7, 0.1, 12.305, 1e21, -1e21, 5e-324, 123456789.5));

/** An automaton, or undefined where no number lies between the bounds. */
function automatonOf(make: () => ReturnType<typeof numberPattern>) {
  try {
    return buildAutomaton([make()]);
  } catch (error) {
    expect(error).toMatchObject({ code: 'INVALID_ARGUMENT' });
    return undefined;
  }
}

test('integers between bounds are all and only those', () => {
  const property = fc.property(boundsOf(fc.oneof(small, decimals)), (bounds) => {
    const automaton = automatonOf(() => integerPattern(bounds));
    for (let x = -150; x <= 150; x++) expect([bounds, x, automaton !== undefined && fits(automaton, String(x))]).toEqual([bounds, x, inside(x, bounds)]);
    if (!automaton) return;
    for (const text of ['01', '-', '1.0', '1e3', '+1', '']) expect(fits(automaton, text)).toBe(false);
  });
  fc.assert(property, { numRuns: 60 });
});

test('large integers', () => {
  const safe = buildAutomaton([integerPattern({ low: { value: -Number.MAX_SAFE_INTEGER, exclusive: false }, high: { value: Number.MAX_SAFE_INTEGER, exclusive: false } })]);
  expect(['9007199254740991', '9007199254740992', '-9007199254740991', '-9007199254740992', '10', '99999999999999999'].map((text) => fits(safe, text)))
    .toEqual([true, false, true, false, true, false]);
  const int64 = buildAutomaton([integerPattern({ low: { value: -(2 ** 63), exclusive: false }, high: { value: 2 ** 63, exclusive: true } })]);
  expect(['1234567890123456', '-1234567890123456', '0'].map((text) => fits(int64, text))).toEqual([true, true, true]);
  const free = buildAutomaton([integerPattern({})]);
  expect(['999999999999999', '-999999999999999', '0', '-0', '1000000000000000'].map((text) => fits(free, text))).toEqual([true, true, true, true, false]);
});

test('numbers between bounds are those, as doubles', () => {
  const text = fc.oneof(
    fc.tuple(small, fc.nat(1000)).map(([whole, rest]) => `${whole}.${rest}`),
    small.map((x) => String(x / 100)), small.map((x) => String(x / 8)),
    fc.tuple(fc.constantFrom('', '-'), fc.nat(99_999), fc.integer({ min: 0, max: 99_999_999 })).map(([sign, whole, rest]) => `${sign}${whole}.${rest}`),
    fc.constantFrom('0', '-0', '0.0', '-0.5', '12.305', '12.3050', '12.304999', '0.1', '0.10', '123456789.500001', '0.0000001', '0.00000009'),
  ).filter((each) => !/e/.test(each));
  const property = fc.property(boundsOf(decimals), fc.array(text, { minLength: 60, maxLength: 60 }), (bounds, texts) => {
    const automaton = automatonOf(() => numberPattern(bounds));
    for (const each of texts) {
      const x = Number(each);
      if (Object.is(x, -0)) continue; // as it is written, below 0
      expect([bounds, each, automaton !== undefined && fits(automaton, each)]).toEqual([bounds, each, inside(x, bounds)]);
    }
  });
  fc.assert(property, { numRuns: 100 });
});

test('a number has at most 15 digits where it has no bounds, and may have an exponent', () => {
  const automaton = buildAutomaton([numberPattern({})]);
  const yes = ['0', '-0.5', '123456789012345', '1.23456789012345', '1e5', '1.5E-07', '0.1e+99', '99999999999999.9'];
  const no = ['', '-', '.5', '5.', '01', '1e', '1e100', '1234567890123456', '12345678901234.56', '+1', 'NaN'];
  expect(yes.map((text) => fits(automaton, text))).toEqual(yes.map(() => true));
  expect(no.map((text) => fits(automaton, text))).toEqual(no.map(() => false));
});
