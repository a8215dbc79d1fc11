import { nearest } from '../check.js';
import { SpkvError } from '../errors.js';
import { isObject, type JsonObject } from '../json.js';

/** A schema of JSON Schema 2020-12: an object of keywords, or true (anything) or false (nothing). */
export type JsonSchema = JsonObject | boolean;

export const TYPES = ['object', 'array', 'string', 'number', 'integer', 'boolean', 'null'] as const;
export type JsonType = (typeof TYPES)[number];

/** What may be asked of values of each type. Of others it asks nothing. */
export const KEYWORDS: Readonly<Record<JsonType, readonly string[]>> = {
  object: ['properties', 'required', 'additionalProperties'],
  array: ['items', 'prefixItems', 'minItems', 'maxItems'],
  string: ['minLength', 'maxLength', 'pattern', 'format'],
  number: ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum'],
  integer: ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum'],
  boolean: [],
  null: [],
};

/** What does not change which values fit. */
export const ANNOTATIONS: ReadonlySet<string> = new Set([
  'title', 'description', 'default', 'examples', 'deprecated', 'readOnly', 'writeOnly', '$schema', '$id', '$comment', '$defs', 'definitions',
]);

const KNOWN: ReadonlySet<string> = new Set(['$ref', 'anyOf', 'oneOf', 'allOf', 'type', 'enum', 'const', ...Object.values(KEYWORDS).flat(), ...ANNOTATIONS]);
/** Values with which a keyword that is not supported asks for nothing. */
const HARMLESS: Readonly<Record<string, unknown>> = { uniqueItems: false, minProperties: 0, minContains: 0 };

/** Errors: UNSUPPORTED for the first keyword that is not honoured. */
export function checkKeywords(schema: JsonObject, path: string): void {
  for (const [keyword, value] of Object.entries(schema)) {
    if (KNOWN.has(keyword) || (Object.hasOwn(HARMLESS, keyword) && HARMLESS[keyword] === value)) continue;
    const hint = nearest(keyword, [...KNOWN]);
    throw new SpkvError('UNSUPPORTED', `The keyword "${keyword}" at ${path} is not supported${hint ? `; did you mean "${hint}"?` : ''}`);
  }
}

/** The part of a schema that a `$ref` names. Errors: UNSUPPORTED for another document, INVALID_ARGUMENT for nothing. */
export function resolvePointer(root: JsonSchema, pointer: string, path: string): JsonSchema {
  if (pointer !== '#' && !pointer.startsWith('#/')) {
    throw new SpkvError('UNSUPPORTED', `The reference "${pointer}" at ${path} is not supported: expected a place in the same schema, such as "#/$defs/name"`);
  }
  let at: unknown = root;
  for (const part of pointer.split('/').slice(1)) {
    const name = decoded(part).replaceAll('~1', '/').replaceAll('~0', '~');
    at = at !== null && typeof at === 'object' && Object.hasOwn(at, name) ? (at as JsonObject)[name] : undefined;
  }
  if (isObject(at) || typeof at === 'boolean') return at;
  throw new SpkvError('INVALID_ARGUMENT', `Expected a schema at "${pointer}", to which ${path} refers, but found none`);
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** Whether no value can fit two of the schemas: they have different types, or a constant member tells them apart. */
export function disjoint(root: JsonSchema, schemas: unknown): boolean {
  if (!Array.isArray(schemas)) return false;
  const resolved = schemas.map((schema) => follow(root, schema));
  return resolved.every((a, i) => resolved.slice(0, i).every((b) => apart(root, a, b)));
}

/** The schema itself, or what it refers to. */
function follow(root: JsonSchema, schema: unknown): JsonObject | undefined {
  let at = schema;
  for (let i = 0; i < 16 && isObject(at) && typeof at['$ref'] === 'string'; i++) at = resolvePointer(root, at['$ref'], '$ref');
  return isObject(at) ? at : undefined;
}

function apart(root: JsonSchema, a: JsonObject | undefined, b: JsonObject | undefined): boolean {
  if (!a || !b) return false;
  const [types, others] = [a, b].map(typesOf) as [Set<string> | undefined, Set<string> | undefined];
  if (types && others && ![...types].some((type) => others.has(type))) return true;
  const [values, otherValues] = [valuesOf(a), valuesOf(b)];
  if (values && otherValues && !values.some((value) => otherValues.includes(value))) return true;
  const isOnlyObject = (set: Set<string> | undefined) => set?.size === 1 && set.has('object');
  if (!isOnlyObject(types) || !isOnlyObject(others)) return false;
  const [mine, theirs] = [a, b].map(({ properties }) => (isObject(properties) ? properties : {})) as [JsonObject, JsonObject];
  const required = [a, b].map((schema) => (Array.isArray(schema['required']) ? schema['required'] : [])) as [unknown[], unknown[]];
  return Object.keys(mine).some((name) => {
    if (!Object.hasOwn(theirs, name) || !required.every((names) => names.includes(name))) return false;
    const [one, other] = [follow(root, mine[name]), follow(root, theirs[name])].map((schema) => schema && valuesOf(schema));
    return one && other && !one.some((value) => other.includes(value));
  });
}

/** Every integer is a number. */
function typesOf(schema: JsonObject): Set<string> | undefined {
  const { type } = schema;
  if (type === undefined) return valuesOf(schema)?.length ? new Set(valuesOf(schema)!.map((text) => typeName(JSON.parse(text)))) : undefined;
  return new Set([type].flat().map((each) => (each === 'integer' ? 'number' : String(each))));
}

function typeName(value: unknown): string {
  if (value === null) return 'null';
  return Array.isArray(value) ? 'array' : typeof value;
}

/** The values of `const` or `enum`, as JSON. */
function valuesOf(schema: JsonObject): string[] | undefined {
  if (schema['const'] !== undefined) return [JSON.stringify(schema['const'])];
  return Array.isArray(schema['enum']) ? schema['enum'].map((value) => JSON.stringify(value)) : undefined;
}
