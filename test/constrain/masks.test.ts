import fc from 'fast-check';
import { buildAutomaton } from '../../lib/constrain/automaton.js';
import { writeUtf8 } from '../../lib/constrain/characters.js';
import { regexPattern } from '../../lib/constrain/regex.js';
import { schemaGrammar } from '../../lib/constrain/schema.js';
import type { Grammar } from '../../lib/constrain/patterns.js';
import { END, idsOf, masksOf, randomText, Reference, testVocabulary } from '../support/constraints.js';
import { random } from '../support/device.js';
import { seeds } from '../support/operands.js';

const { tokens } = testVocabulary();

const SCHEMAS: [string, object][] = [
  ['any object', { type: 'object' }],
  ['members and arrays', {
    type: 'object', additionalProperties: false, required: ['name', 'tags'],
    properties: { name: { type: 'string' }, age: { type: 'integer' }, tags: { type: 'array', items: { enum: ['a', 'ab', '€', 1, null] }, maxItems: 3 }, ok: { type: 'boolean' } },
  }],
  ['optional members alone', { type: 'object', additionalProperties: { type: 'boolean' }, properties: { a: { type: 'number' }, ab: { type: 'string' }, é: { type: 'null' } } }],
  ['recursion', {
    $ref: '#/$defs/node',
    $defs: { node: { type: 'object', properties: { value: { type: 'string', maxLength: 3 }, next: { anyOf: [{ $ref: '#/$defs/node' }, { type: 'null' }] } }, required: ['value', 'next'] } },
  }],
  ['alternatives that begin alike', {
    anyOf: [
      { type: 'object', properties: { a: { type: 'string' } }, required: ['a'] },
      { type: 'object', properties: { a: { type: 'string' }, b: { type: 'string' } }, required: ['a', 'b'] },
      { type: 'object', properties: { abc: { type: 'array', prefixItems: [{ type: 'string' }, { type: 'integer' }] } }, required: ['abc'] },
    ],
  }],
  ['strings of a limited length', { type: 'array', items: { type: 'string', minLength: 2, maxLength: 40 } }],
  ['strings of a pattern', { type: 'array', items: { type: 'string', pattern: '^(ab|é)+"?$' }, minItems: 1 }],
];
const REGEXES = ['[a-c]*', '(hello|the| )+', '€é?[^a-z]', '.{2,3}', '"\\p{Lu}\\w*"', '日本|ß'];

const grammars: [string, Grammar][] = [
  ...SCHEMAS.map(([name, schema]): [string, Grammar] => [name, schemaGrammar(schema as never)]),
  ...REGEXES.map((regex): [string, Grammar] => [regex, [regexPattern(regex, 'regex', writeUtf8, { whole: true })]]),
];

describe.each(grammars)('the tokens that are allowed: %s', (_, grammar) => {
  const automaton = buildAutomaton(grammar);
  const reference = new Reference(grammar);
  const expected = (bytes: readonly number[]) => {
    const ways = reference.read(reference.start, bytes);
    return tokens.flatMap((token, id) => (token ? (reference.read(ways, token).length > 0 ? [id] : []) : reference.mayEnd(ways) ? [END] : []));
  };

  test('are those that a reading of every token allows', () => {
    const masks = masksOf(automaton);
    const property = fc.property(seeds, (seed) => {
      randomText(masks, tokens, random(seed), 20, (allowed, bytes) => expect(allowed).toEqual(expected(bytes)));
    });
    fc.assert(property, { numRuns: 3 });
  });

  test('are the same when they were found ahead, and when little is remembered', () => {
    const prepared = masksOf(automaton).prepare(60_000);
    expect(prepared.states.filter(Boolean).length).toBeGreaterThan(0);
    const property = fc.property(seeds, (seed) => {
      const [plain, ahead, forgetful] = [masksOf(automaton), masksOf(automaton, 1 << 24, prepared), masksOf(automaton, 1)];
      const steps: number[][] = [];
      const all = [plain, ahead, forgetful].map((masks, i) => {
        let step = 0;
        return randomText(masks, tokens, random(seed), 25, (allowed) => {
          if (i === 0) steps.push(allowed);
          else expect(allowed).toEqual(steps[step++]);
        });
      });
      expect(all[1]).toEqual(all[0]);
      expect(all[2]).toEqual(all[0]);
    });
    fc.assert(property, { numRuns: 3 });
  });
});

test('a set of few tokens is their ids, one of many their bits', () => {
  const masks = masksOf(buildAutomaton([regexPattern('ab.*', 'regex', writeUtf8, { whole: true })]));
  const first = masks.allowed(masks.start, true);
  expect(first.ids).toBeDefined();
  expect(idsOf(first, tokens.length)).toEqual([...first.ids!]);
  const later = masks.allowed(masks.next(masks.next(masks.start, 'a'.charCodeAt(0), true)!, 'b'.charCodeAt(0), false)!, false);
  expect(later.bits).toBeDefined();
});

test('states that no token can tell apart are one', () => {
  const automaton = buildAutomaton(schemaGrammar({ type: 'string', maxLength: 250 }));
  const { same, states } = masksOf(automaton).prepare(60_000);
  expect(automaton.accepting.length).toBeGreaterThan(2000);
  // The longest token has 10 bytes: those near the end, and one of each kind before.
  expect(new Set(same).size).toBeLessThan(250);
  expect(states.filter(Boolean).length).toBe(new Set([...same].filter((state) => automaton.edgeStarts[state]! < automaton.edgeStarts[state + 1]!)).size);
});
