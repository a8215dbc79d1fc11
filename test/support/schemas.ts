import fc from 'fast-check';
import type { JsonObject } from '../../lib/json.js';
import { FORMATS } from '../../lib/constrain/formats.js';

const name = fc.constantFrom('a', 'ab', 'b', 'name', 'é', 'x y', '"', '$ref', '__proto', 'c');
const names = fc.uniqueArray(name, { maxLength: 4 });
const small = fc.nat(3);
const scalar = fc.oneof(fc.constantFrom<unknown>('a', 'ab', '€"', '\n', 0, -1.5, 12, true, false, null, [], [1, 'x'], { a: 1 }), fc.integer());
const between = (low: string, high: string, value: fc.Arbitrary<number>) =>
  fc.tuple(fc.option(value, { nil: undefined }), fc.option(small, { nil: undefined })).map(([least, more]) => ({
    ...(least !== undefined && { [low]: least }), ...(more !== undefined && { [high]: (least ?? 0) + more }),
  }));

/** Schemas that some value fits, of every keyword that is supported. */
export const { schema } = fc.letrec<{ schema: JsonObject }>((tie) => ({
  schema: fc.oneof(
    { maxDepth: 3, withCrossShrink: true },
    fc.oneof(
      fc.constantFrom<JsonObject>({ type: 'string' }, { type: 'integer' }, { type: 'number' }, { type: 'boolean' }, { type: 'null' }, { type: ['integer', 'null'] }),
      between('minLength', 'maxLength', small).map((counts) => ({ type: 'string', ...counts })),
      between('minimum', 'maximum', fc.integer({ min: -20, max: 120 })).map((bounds) => ({ type: 'integer', ...bounds })),
      fc.tuple(fc.integer({ min: -50, max: 50 }), fc.integer({ min: 1, max: 300 })).map(([low, more]) => ({ type: 'number', exclusiveMinimum: low / 8, exclusiveMaximum: (low + more) / 8 })),
      fc.constantFrom('^[a-c]+$', '^\\d{2,3}-x?', 'b$', '[^a]"', '^(é|\\n)*$', '^$').map((pattern) => ({ type: 'string', pattern })),
      fc.constantFrom(...Object.keys(FORMATS)).map((format) => ({ type: 'string', format })),
      fc.array(scalar, { minLength: 1, maxLength: 4 }).map((values) => ({ enum: values })),
      scalar.map((value) => ({ const: value })),
      fc.constant<JsonObject>({ type: 'string', pattern: '^[a-z]*$', minLength: 2, maxLength: 4 }),
    ),
    fc.tuple(fc.dictionary(name, tie('schema'), { maxKeys: 4, noNullPrototype: true }), names, fc.oneof(fc.constant(undefined), fc.boolean(), tie('schema')), fc.boolean()).map(
      ([properties, required, additionalProperties, typed]) => ({
        ...(typed && { type: 'object' }),
        properties,
        required: additionalProperties === false ? required.filter((each) => Object.hasOwn(properties, each)) : required,
        ...(additionalProperties !== undefined && { additionalProperties }),
      }),
    ),
    fc.tuple(tie('schema'), between('minItems', 'maxItems', small)).map(([items, counts]) => ({ type: 'array', items, ...counts })),
    fc.tuple(fc.array(tie('schema'), { minLength: 1, maxLength: 3 }), fc.option(tie('schema'), { nil: undefined })).map(([prefixItems, items]) => ({ type: 'array', prefixItems, ...(items && { items }) })),
    fc.array(tie('schema'), { minLength: 1, maxLength: 3 }).map((anyOf) => ({ anyOf, description: 'one of them' })),
    tie('schema').map((inner) => ({ oneOf: [{ type: 'object', properties: { kind: { const: 'x' }, inner }, required: ['kind', 'inner'] }, { type: 'object', properties: { kind: { const: 'y' } }, required: ['kind'] }, { type: 'null' }] })),
    tie('schema').map((inner) => ({ allOf: [inner], title: 'a title' })),
    tie('schema').map((inner) => ({
      $defs: {}, // of no use below the root
      type: 'object', properties: { value: inner, next: { anyOf: [{ type: 'null' }, { type: 'array', items: { $ref: '#' }, maxItems: 1 }] } }, required: ['next'],
    })),
  ),
}));
