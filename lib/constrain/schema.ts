import { integer, invalid, number, string } from '../check.js';
import { SpkvError } from '../errors.js';
import { isObject, type JsonObject } from '../json.js';
import { JSON_CHARACTER, writeJson } from './characters.js';
import { FORMATS } from './formats.js';
import { constant, JsonText } from './json-text.js';
import { type Bound, integerPattern, numberPattern } from './numbers.js';
import { both, choice, type Grammar, literal, NEVER, type Pattern, repeat, Rules, sequence } from './patterns.js';
import { regexPattern } from './regex.js';
import { ANNOTATIONS, checkKeywords, disjoint, type JsonSchema, type JsonType, KEYWORDS, resolvePointer, TYPES } from './schema-keywords.js';

const MAX_CHARACTERS = 1 << 18;
/** Levels of schemas, references included. */
const MAX_DEPTH = 400;
/** Most elements, characters or members that are counted out. */
const MAX_COUNT = 10_000;

/**
 * The JSON that fits a schema (of JSON Schema 2020-12, as far as it goes): a grammar all of whose texts fit it. It has the
 * members of objects in the order of `properties`; others only where `additionalProperties` asks for them or nothing is
 * said of members at all, and elements past `prefixItems` only where there are `items`. Keywords that are not honoured are
 * refused: UNSUPPORTED, with the keyword and its place. INVALID_ARGUMENT for what is no schema.
 */
export function schemaGrammar(schema: JsonSchema): Grammar {
  const text = JSON.stringify(schema) ?? '';
  if (text.length > MAX_CHARACTERS) throw new SpkvError('UNSUPPORTED', `The schema has ${text.length} characters; at most ${MAX_CHARACTERS} are supported`);
  return new SchemaReader(schema).grammar();
}

class SchemaReader {
  readonly #root: JsonSchema;
  readonly #rules = new Rules();
  readonly #json = new JsonText(this.#rules);
  #depth = 0;

  constructor(root: JsonSchema) {
    this.#root = root;
  }

  grammar(): Grammar {
    return this.#rules.grammar(this.#read(this.#root, '#'));
  }

  /** What fits the schema at `path`. */
  #read(schema: unknown, path: string): Pattern {
    if (schema === true) return this.#json.value;
    if (schema === false) return NEVER;
    if (!isObject(schema)) throw invalid('a JSON schema: an object, true or false,', path, schema);
    if (++this.#depth > MAX_DEPTH) throw new SpkvError('UNSUPPORTED', `The schema at ${path} is nested too deep: at most ${MAX_DEPTH} levels are supported`);
    try {
      checkKeywords(schema, path);
      return this.#one(schema, path);
    } finally {
      this.#depth--;
    }
  }

  #one(schema: JsonObject, path: string): Pattern {
    if (schema['$ref'] !== undefined) {
      const pointer = this.#alone(schema, '$ref', path, (value, name) => string(value, name));
      const target = resolvePointer(this.#root, pointer, `${path}/$ref`);
      return this.#rules.call(JSON.stringify(target), () => this.#read(target, pointer));
    }
    if (schema['anyOf'] !== undefined) return this.#branches(schema, 'anyOf', path);
    if (schema['oneOf'] !== undefined) {
      if (!disjoint(this.#root, schema['oneOf'])) {
        throw new SpkvError('UNSUPPORTED', `The keyword "oneOf" at ${path} is supported only where types or a constant member tell its schemas apart; use "anyOf"`);
      }
      return this.#branches(schema, 'oneOf', path);
    }
    if (schema['allOf'] !== undefined) {
      const parts = this.#alone(schema, 'allOf', path, array);
      if (parts.length !== 1) throw new SpkvError('UNSUPPORTED', `The keyword "allOf" at ${path} is supported with one schema only`);
      return this.#read(parts[0], `${path}/allOf/0`);
    }
    const types = this.#types(schema, path);
    if (schema['const'] !== undefined) return this.#constants(this.#alone(schema, 'const', path, (value) => [value], ['type']), types);
    if (schema['enum'] !== undefined) return this.#constants(this.#alone(schema, 'enum', path, array, ['type']), types);
    return choice(...types.map((type) => this.#typed(type, schema, path)));
  }

  /** The value of a keyword that does not go with others, but annotations and `beside`. */
  #alone<T>(schema: JsonObject, keyword: string, path: string, check: (value: unknown, name: string) => T, beside: readonly string[] = []): T {
    const other = Object.keys(schema).find((key) => key !== keyword && !ANNOTATIONS.has(key) && !beside.includes(key));
    if (other !== undefined) throw new SpkvError('UNSUPPORTED', `The keyword "${other}" beside "${keyword}" at ${path} is not supported`);
    return check(schema[keyword], `${path}/${keyword}`);
  }

  #branches(schema: JsonObject, keyword: string, path: string): Pattern {
    const branches = this.#alone(schema, keyword, path, array);
    return choice(...branches.map((branch, i) => this.#read(branch, `${path}/${keyword}/${i}`)));
  }

  /** Those of `type`; where it is missing, those that the keywords are about, or all. */
  #types(schema: JsonObject, path: string): readonly JsonType[] {
    const { type } = schema;
    if (type !== undefined) {
      const given = Array.isArray(type) ? type : [type];
      const unknown = given.find((each) => !TYPES.includes(each as JsonType));
      if (given.length === 0 || unknown !== undefined) throw invalid(`one of ${TYPES.join(', ')}, or several in an array,`, `${path}/type`, unknown ?? type);
      return [...new Set(given as JsonType[])];
    }
    const about = TYPES.filter((each) => KEYWORDS[each].some((keyword) => schema[keyword] !== undefined));
    if (about.length === 0) return TYPES.filter((each) => each !== 'integer');
    return about.filter((each) => each !== 'integer');
  }

  #constants(values: readonly unknown[], types: readonly JsonType[]): Pattern {
    return choice(...values.filter((value) => types.some((type) => isOf(type, value))).map(constant));
  }

  #typed(type: JsonType, schema: JsonObject, path: string): Pattern {
    const asked = KEYWORDS[type].some((keyword) => schema[keyword] !== undefined);
    switch (type) {
      case 'null':
        return literal('null');
      case 'boolean':
        return choice(literal('true'), literal('false'));
      case 'string':
        return asked ? this.#string(schema, path) : this.#json.string;
      case 'integer':
      case 'number':
        if (!asked) return this.#json[type];
        return this.#rules.call(`${type} ${JSON.stringify(schema)}`, () => (type === 'integer' ? integerPattern : numberPattern)(bounds(schema, path)));
      case 'object':
        return asked ? this.#rules.call(`object ${JSON.stringify(schema)}`, () => this.#object(schema, path)) : this.#json.anyObject;
      case 'array':
        return asked ? this.#rules.call(`array ${JSON.stringify(schema)}`, () => this.#array(schema, path)) : this.#json.anyArray;
    }
  }

  #string(schema: JsonObject, path: string): Pattern {
    const { min, max } = counts(schema, path, 'minLength', 'maxLength');
    const { format, pattern } = schema;
    const parts: Pattern[] = [];
    if (format !== undefined) {
      const regex = Object.hasOwn(FORMATS, String(format)) ? FORMATS[String(format)] : undefined;
      if (regex === undefined) {
        throw new SpkvError('UNSUPPORTED', `The format "${String(format)}" at ${path} is not supported; those that are: ${Object.keys(FORMATS).join(', ')}`);
      }
      parts.push(regexPattern(regex, `${path}/format`, writeJson, { whole: true }));
    }
    if (pattern !== undefined) parts.push(regexPattern(string(pattern, `${path}/pattern`), `${path}/pattern`, writeJson, { whole: false }));
    if (parts.length === 0) return this.#json.sized(min, max);
    if (min > 0 || max < Infinity) parts.push(repeat(JSON_CHARACTER, min, max));
    return this.#rules.call(`string ${JSON.stringify(schema)}`, () => sequence(literal('"'), parts.reduce(both), literal('"')));
  }

  #object(schema: JsonObject, path: string): Pattern {
    const { properties = {}, required = [], additionalProperties } = schema;
    if (!isObject(properties)) throw invalid('an object of schemas', `${path}/properties`, properties);
    const names = array(required, `${path}/required`).map((name, i) => string(name, `${path}/required/${i}`));
    const additional = additionalProperties ?? (schema['properties'] === undefined);
    const members = Object.entries(properties).map(([name, value]) => ({
      name, value: this.#read(value, `${path}/properties/${escaped(name)}`), optional: !names.includes(name),
    }));
    const others = this.#read(additional, `${path}/additionalProperties`);
    for (const name of new Set(names)) {
      if (!Object.hasOwn(properties, name)) members.push({ name, value: additionalProperties === undefined ? this.#json.value : others, optional: false });
    }
    return this.#json.object(members, additional === false ? undefined : { value: others, apartFrom: members.map(({ name }) => name) });
  }

  #array(schema: JsonObject, path: string): Pattern {
    const { min, max } = counts(schema, path, 'minItems', 'maxItems');
    const { prefixItems = [], items } = schema;
    const first = array(prefixItems, `${path}/prefixItems`).map((item, i) => this.#read(item, `${path}/prefixItems/${i}`));
    return this.#json.array(first, this.#read(items ?? first.length === 0, `${path}/items`), min, max);
  }
}

function array(value: unknown, name: string): readonly unknown[] {
  if (!Array.isArray(value)) throw invalid('an array', name, value);
  return value;
}

function counts(schema: JsonObject, path: string, least: string, most: string): { min: number; max: number } {
  const count = (keyword: string, otherwise: number) => {
    const value = schema[keyword];
    if (value === undefined) return otherwise;
    if (integer(value, `${path}/${keyword}`) > MAX_COUNT) throw new SpkvError('UNSUPPORTED', `The keyword "${keyword}" at ${path} is supported up to ${MAX_COUNT}`);
    return value as number;
  };
  return { min: count(least, 0), max: count(most, Infinity) };
}

/** The narrower of the bounds on each side. */
function bounds(schema: JsonObject, path: string): { low: Bound | undefined; high: Bound | undefined } {
  const bound = (keyword: string, exclusive: boolean): Bound[] => {
    const value = schema[keyword];
    return value === undefined ? [] : [{ value: number(value, `${path}/${keyword}`), exclusive }];
  };
  const narrowest = (found: Bound[], sign: number) => found.sort((a, b) => sign * (b.value - a.value) || Number(b.exclusive) - Number(a.exclusive))[0];
  return {
    low: narrowest([...bound('minimum', false), ...bound('exclusiveMinimum', true)], 1),
    high: narrowest([...bound('maximum', false), ...bound('exclusiveMaximum', true)], -1),
  };
}

function isOf(type: JsonType, value: unknown): boolean {
  if (type === 'integer') return Number.isInteger(value);
  if (type === 'null') return value === null;
  if (type === 'array') return Array.isArray(value);
  return type === 'object' ? isObject(value) : typeof value === type;
}

function escaped(name: string): string {
  return name.replaceAll('~', '~0').replaceAll('/', '~1');
}

