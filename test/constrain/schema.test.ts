import { Ajv2020 } from 'ajv/dist/2020.js';
import addFormats from 'ajv-formats';
import fc from 'fast-check';
import { buildAutomaton } from '../../lib/constrain/automaton.js';
import { compile } from '../../lib/constrain/compile.js';
import { FORMATS } from '../../lib/constrain/formats.js';
import { schemaGrammar } from '../../lib/constrain/schema.js';
import type { JsonSchema } from '../../lib/constrain/schema-keywords.js';
import type { SpkvError } from '../../lib/errors.js';
import { fits, masksOf, randomText, testVocabulary } from '../support/constraints.js';
import { random } from '../support/device.js';
import { seeds } from '../support/operands.js';
import { schema as schemas } from '../support/schemas.js';

const { tokens } = testVocabulary();

/** A judge that shares nothing with us. */
function validator(schema: JsonSchema): (value: unknown) => boolean {
  const ajv = new Ajv2020({ strict: false, allErrors: false });
  (addFormats as unknown as (to: object) => void)(ajv);
  return ajv.compile(schema as object) as (value: unknown) => boolean;
}

const automatonOf = (schema: JsonSchema) => buildAutomaton(schemaGrammar(schema));
const fitting = (schema: JsonSchema, ...texts: string[]) => {
  const automaton = automatonOf(schema);
  return texts.filter((text) => fits(automaton, text));
};

describe('whatever tokens come, the text is JSON that fits', () => {
  test('any schema', () => {
    let complete = 0;
    let runs = 0;
    const property = fc.property(schemas, seeds, (schema, seed) => {
      const valid = validator(schema);
      const masks = masksOf(compile({ jsonSchema: schema }));
      const uniform = random(seed);
      for (let i = 0; i < 4; i++) {
        const { text, complete: ended } = randomText(masks, tokens, uniform, 400);
        runs++;
        if (!ended) continue;
        complete++;
        const value: unknown = JSON.parse(text);
        if (!valid(value)) throw new Error(`${text} does not fit ${JSON.stringify(schema)}`);
      }
    });
    fc.assert(property, { numRuns: 60 });
    expect(complete).toBeGreaterThan(runs / 2);
  });

  test.each(Object.keys(FORMATS))('the format %s', (format) => {
    const schema = { type: 'string', format };
    const [valid, masks, uniform] = [validator(schema), masksOf(compile({ jsonSchema: schema })), random(format.length)];
    let complete = 0;
    for (let i = 0; i < 60; i++) {
      const { text, complete: ended } = randomText(masks, tokens, uniform, 300);
      if (!ended) continue;
      complete++;
      if (!valid(JSON.parse(text))) throw new Error(`${text} is no ${format}`);
    }
    expect(complete).toBeGreaterThan(20);
  });

  test('any JSON', () => {
    const masks = masksOf(compile({ jsonSchema: true }));
    const uniform = random(5);
    let complete = 0;
    for (let i = 0; i < 60; i++) {
      const { text, complete: ended } = randomText(masks, tokens, uniform, 300);
      if (ended) JSON.parse(text);
      complete += Number(ended);
    }
    expect(complete).toBeGreaterThan(10);
  });
});

describe('a schema fits', () => {
  const person = {
    type: 'object', required: ['name', 'age'], additionalProperties: false,
    properties: { name: { type: 'string' }, nick: { type: ['string', 'null'] }, age: { type: 'integer', minimum: 0 } },
  };

  test('objects in the order of its properties, in any usual style', () => {
    const value = { name: 'Ada "the" é\n', nick: null, age: 36 };
    const texts = [JSON.stringify(value), JSON.stringify(value, null, 2), JSON.stringify(value, null, '\t'), '{"name": "Ada", "age": 36}', '{ "name": "Ada", "age": 0 }'];
    expect(fitting(person, ...texts)).toEqual(texts);
    expect(fitting(person, '{"age":1,"name":"a"}', '{"name":"a"}', '{"name":"a","age":1,"x":1}', '{"name":"a","age":-1}', '{"name":"a",,"age":1}', '{"name":"a""age":1}', '{"name":"a","age":1,}')).toEqual([]);
  });

  test('what was prepared by other means: escapes, pairs of surrogates, exponents', () => {
    expect(fitting({ type: 'array' }, '["\\u00e9\\ud83d\\ude00\\/\\b"]', '[1e5,-0.5E-07]', '[]', '[ ]', '[[],{}]', '[true,false,null]')).toHaveLength(6);
    expect(fitting({ type: 'array' }, '["\\ud83d"]', '["\\x"]', '["\n"]', '[01]', '[1,]', '[,1]', 'true', '["a]')).toEqual([]);
  });

  test('other members where they are asked for, under other names', () => {
    const schema = { type: 'object', properties: { a: { type: 'integer' }, ab: { type: 'integer' } }, additionalProperties: { type: 'boolean' } };
    expect(fitting(schema, '{"a":1,"b":true}', '{"b":true,"":false,"abc":true}', '{}')).toHaveLength(3);
    expect(fitting(schema, '{"a":true}', '{"b":true,"ab":false}', '{"b":1}', '{"\\u0061":true}')).toEqual([]);
    expect(fitting({ properties: { a: true } }, '{"a":[1]}', '{}', '{"b":1}', '1')).toEqual(['{"a":[1]}', '{}']);
    expect(fitting({ required: ['a'] }, '{"a":[1]}', '{"a":1,"b":2}', '{}')).toEqual(['{"a":[1]}', '{"a":1,"b":2}']);
  });

  test('elements by their number and place', () => {
    const pair = { type: 'array', prefixItems: [{ type: 'string' }, { type: 'integer' }], items: false, minItems: 1 };
    expect(fitting(pair, '["a",1]', '["a"]', '[]', '["a",1,2]', '[1]')).toEqual(['["a",1]', '["a"]']);
    expect(fitting({ type: 'array', items: { const: 0 }, minItems: 1, maxItems: 3 }, '[]', '[0]', '[0,0]', '[0, 0, 0]', '[0,0,0,0]')).toEqual(['[0]', '[0,0]', '[0, 0, 0]']);
    expect(fitting({ type: 'array', items: true, maxItems: 0 }, '[]', '[0]')).toEqual(['[]']);
  });

  test('characters, not bytes or halves', () => {
    expect(fitting({ type: 'string', minLength: 2, maxLength: 2 }, '"é€"', '"\\ud83d\\ude00a"', '"\u{1F600}b"', '"\\"\\n"', '"a"', '"abc"')).toHaveLength(4);
  });

  test('constants as they are written, of the types that are asked for', () => {
    expect(fitting({ enum: ['a', 1, null, [1, 'b'], { c: 'é' }] }, '"a"', '1', 'null', '[1,"b"]', '{"c":"é"}', '"b"')).toHaveLength(5);
    expect(fitting({ type: ['string', 'null'], enum: ['a', 1, null] }, '"a"', '1', 'null')).toEqual(['"a"', 'null']);
    expect(fitting({ const: '"\\\u0001' }, JSON.stringify('"\\\u0001'))).toHaveLength(1);
  });

  test('itself within itself, however deep', () => {
    const tree = { $defs: { 'a/b~': { type: 'object', properties: { children: { type: 'array', items: { $ref: '#/$defs/a~1b~0' } } }, required: ['children'] } }, $ref: '#/$defs/a~1b~0' };
    let text = '{"children":[]}';
    for (let i = 0; i < 200; i++) text = `{"children":[${text},{"children":[]}]}`;
    expect(fitting(tree, text, text.slice(0, -1), `${text}]`)).toEqual([text]);
  });
});

describe('is refused', () => {
  test.each<[object, string]>([
    [{ type: 'object', patternProperties: {} }, '"patternProperties" at #'],
    [{ properties: { a: { items: { not: {} } } } }, '"not" at #/properties/a/items'],
    [{ $defs: { x: { multipleOf: 2 } }, properties: { 'a/b': { $ref: '#/$defs/x' } } }, '"multipleOf" at #/$defs/x'],
    [{ properties: { 'a/b': { uniqueItems: true } } }, '"uniqueItems" at #/properties/a~1b'],
    [{ type: 'string', minlength: 3 }, 'did you mean "minLength"?'],
    [{ if: {}, else: {} }, '"if" at #'], [{ type: 'integer', nullable: true }, '"nullable" at #'],
    [{ type: 'string', format: 'uri' }, 'The format "uri" at # is not supported'],
    [{ anyOf: [{ type: 'string' }], minLength: 3 }, '"minLength" beside "anyOf" at #'],
    [{ $ref: '#/$defs/x', type: 'string', $defs: { x: {} } }, '"type" beside "$ref" at #'],
    [{ enum: ['a'], minLength: 1 }, '"minLength" beside "enum" at #'],
    [{ allOf: [{}, {}] }, '"allOf" at # is supported with one schema only'],
    [{ oneOf: [{ type: 'integer' }, { type: 'number' }] }, '"oneOf" at # is supported only where'],
    [{ $ref: 'https://example.com/schema' }, '"https://example.com/schema" at #/$ref is not supported'],
    [{ type: 'string', pattern: '^(?=a)' }, '#/pattern has a lookahead'],
    [{ type: 'string', maxLength: 1e9 }, '"maxLength" at # is supported up to 10000'],
    [{ description: 'x'.repeat(300_000) }, 'The schema has 3'],
  ])('%#: what is not supported, by its name and place', (schema, message) => {
    expect(() => compile({ jsonSchema: schema as JsonSchema })).toThrow(expect.objectContaining({ code: 'UNSUPPORTED', message: expect.stringContaining(message) }) as SpkvError);
  });

  test.each<[object, string]>([
    [{ type: 'str' }, 'Expected one of object, array'], [{ type: [] }, '#/type'], [{ properties: [] }, 'an object of schemas for #/properties'],
    [{ required: 'a' }, 'an array for #/required'], [{ required: [1] }, 'a string for #/required/0'], [{ minLength: -1 }, '#/minLength'], [{ minimum: '0' }, '#/minimum'],
    [{ items: 5 }, 'a JSON schema: an object, true or false, for #/items'], [{ anyOf: {} }, 'an array for #/anyOf'], [{ enum: 'a' }, 'an array for #/enum'],
    [{ pattern: '(' }, 'a regular expression'], [{ $ref: '#/$defs/none' }, 'Expected a schema at "#/$defs/none"'], [{ $ref: 5 }, 'a string for #/$ref'],
    [{ $ref: '#' }, 'no text fits it'], [{ $defs: { a: { anyOf: [{ $ref: '#/$defs/a' }, { type: 'null' }] } }, $ref: '#/$defs/a' }, 'refers to itself'],
    [{ type: 'object', properties: { a: { $ref: '#' } }, required: ['a'] }, 'no text fits it'], [{ type: 'integer', minimum: 3, maximum: 2 }, 'no text fits it'],
    [{ type: 'array', minItems: 2, maxItems: 1 }, 'no text fits it'], [{ type: 'string', enum: [1] }, 'no text fits it'], [{ enum: [] }, 'no text fits it'],
    [{ type: 'object', additionalProperties: false, required: ['a'] }, 'no text fits it'], [{ type: 'string', pattern: '^a{5}$', maxLength: 4 }, 'no text fits it'],
  ])('%j: no schema, or one that contradicts itself', (schema, message) => {
    expect(() => compile({ jsonSchema: schema as JsonSchema })).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT', message: expect.stringContaining(message) }) as SpkvError);
  });

  test('what would take too long or too much', () => {
    let deep: JsonSchema = { type: 'null' };
    for (let i = 0; i < 1000; i++) deep = { type: 'array', items: deep };
    const counted = { type: 'string', pattern: '^(a|b)*a(a|b){30}$' };
    for (const jsonSchema of [deep, counted] as JsonSchema[]) {
      expect(() => compile({ jsonSchema })).toThrow(expect.objectContaining({ code: expect.stringMatching(/UNSUPPORTED|INVALID_ARGUMENT/) }) as SpkvError);
    }
  });
});
