import fc from 'fast-check';
import { buildAutomaton } from '../../lib/constrain/automaton.js';
import { writeJson } from '../../lib/constrain/characters.js';
import { compile } from '../../lib/constrain/compile.js';
import { literal, sequence } from '../../lib/constrain/patterns.js';
import { regexPattern } from '../../lib/constrain/regex.js';
import type { SpkvError } from '../../lib/errors.js';
import { fits, masksOf, randomText, testVocabulary } from '../support/constraints.js';
import { random } from '../support/device.js';
import { seeds } from '../support/operands.js';

const { tokens } = testVocabulary();

const atom = fc.constantFrom('a', 'b', '€', '.', '\\d', '\\W', '\\s', '[ab]', '[^a]', '[a-c€]', '[^\\w€]', '\\u{1F600}', '\\x61', '\\n', '"', '\\\\');
const count = fc.constantFrom('', '', '', '*', '+', '?', '{2}', '{1,2}', '{1,}', '*?');
const joined = (parts: readonly string[]) => parts.join('');
const branches = (items: fc.Arbitrary<string>) => fc.array(fc.array(items, { maxLength: 2 }).map(joined), { minLength: 1, maxLength: 2 }).map((parts) => parts.join('|'));
/** Without repetitions of repetitions, for which RegExp may take longer than the world has left. */
const flat = branches(fc.tuple(fc.oneof(atom, branches(atom).map((inner) => `(${inner})`)), count).map(joined));
/** Expressions over few characters, so that they often fit. */
const { expression } = fc.letrec<{ expression: string; item: string }>((tie) => ({
  expression: branches(tie('item')),
  item: fc.tuple(
    fc.oneof(
      { maxDepth: 2 },
      atom,
      tie('expression').map((inner) => `(${inner})`),
      tie('expression').map((inner) => `(?:${inner})`),
    ),
    count,
  ).map(joined),
}));
const text = fc.array(fc.constantFrom('a', 'b', 'c', '€', '1', ' ', '\n', '"', '\\', '\u{1F600}', 'É', '_', '\u2028', '\t'), { maxLength: 5 }).map((chars) => chars.join(''));

describe('a regular expression', () => {
  test('fits what JavaScript\'s fits as a whole', () => {
    const property = fc.property(expression, fc.array(text, { minLength: 20, maxLength: 20 }), (regex, texts) => {
      const automaton = compile({ regex });
      const expected = new RegExp(`^(?:${regex})$`, 'u');
      for (const each of texts) expect([regex, each, fits(automaton, each)]).toEqual([regex, each, expected.test(each)]);
    });
    fc.assert(property, { numRuns: 60 });
  });

  test('within a schema, fits strings of JSON any part of which JavaScript\'s fits', () => {
    const anchored = fc.tuple(fc.constantFrom('', '^'), expression, fc.constantFrom('', '$'))
      .map(([start, inner, end]) => (start || end ? `${start}(${inner})${end}` : inner));
    const property = fc.property(anchored, fc.array(text, { minLength: 20, maxLength: 20 }), (regex, texts) => {
      const automaton = buildAutomaton([sequence(literal('"'), regexPattern(regex, 'pattern', writeJson, { whole: false }), literal('"'))]);
      const expected = new RegExp(regex, 'u');
      for (const each of texts) expect([regex, each, fits(automaton, JSON.stringify(each))]).toEqual([regex, each, expected.test(each)]);
    });
    fc.assert(property, { numRuns: 40 });
  });

  test('random tokens make texts that fit', () => {
    let complete = 0;
    const property = fc.property(flat, seeds, (regex, seed) => {
      const written = randomText(masksOf(compile({ regex })), tokens, random(seed), 40);
      if (!written.complete) return;
      complete++;
      expect(written.text).toMatch(new RegExp(`^(?:${regex})$`, 'u'));
    });
    fc.assert(property, { numRuns: 60 });
    expect(complete).toBeGreaterThan(20);
  });

  test('knows every character of every class', () => {
    for (const regex of ['.', '\\w', '\\W', '\\d', '\\s', '\\S', '[^"\\\\]', '\\p{Script=Greek}', '[^\\p{L}\\d]']) {
      const automaton = compile({ regex });
      const expected = new RegExp(`^${regex}$`, 'u');
      for (let code = 0; code < 0x30000; code += code < 0x3100 ? 1 : 17) {
        if ((code >= 0xd800 && code < 0xe000) || code === 0xfeff) continue;
        const char = String.fromCodePoint(code);
        if (fits(automaton, char) !== expected.test(char)) throw new Error(`${regex} and U+${code.toString(16)}`);
      }
    }
  });

  test('may be anchored, which changes nothing, and branches may be of any length', () => {
    const automaton = compile({ regex: '^ab$|^(c|)$' });
    expect(['ab', 'c', '', 'a', 'abc'].map((each) => fits(automaton, each))).toEqual([true, true, true, false, false]);
  });

  test('is never written with a byte order mark', () => {
    expect(fits(compile({ regex: '.' }), '\ufeff')).toBe(false);
    expect(() => compile({ regex: '\\ufeff' })).toThrow('no text fits it');
  });

  test.each([
    ['a(?=b)', 'a lookahead'], ['(?<!a)b', 'a lookbehind'], ['\\bab', 'a word boundary'], ['(a)\\1', 'a backreference'], ['(?<x>a)\\k<x>', 'a backreference'],
    ['a^b', 'other than at an end'], ['(a$)b', 'other than at an end'], ['a{10001}', 'a count above 10000'],
  ])('%s is refused', (regex, reason) => {
    expect(() => compile({ regex })).toThrow(expect.objectContaining({ code: 'UNSUPPORTED', message: expect.stringContaining(reason) }) as SpkvError);
  });

  test.each(['a(', '[b-a]', '\\_', 'a**', '(?<x>a)(?<x>b)'])('%s is no regular expression', (regex) => {
    expect(() => compile({ regex })).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT', message: expect.stringContaining('a regular expression of JavaScript') }) as SpkvError);
  });

  test.each(['[]', 'a[]b'])('%s fits no text', (regex) => {
    expect(() => compile({ regex })).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }) as SpkvError);
  });

  test.each(['((a{100}){100}){100}', '(a|b)*a(a|b){24}', `${'('.repeat(20_000)}a${')'.repeat(20_000)}`])('%# is too large, and is refused in time', (regex) => {
    expect(() => compile({ regex })).toThrow(expect.objectContaining({ code: expect.stringMatching(/UNSUPPORTED|INVALID_ARGUMENT/) }) as SpkvError);
  });
});
