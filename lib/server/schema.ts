// JSON schemas of requests, and what is said of a request that does not fit one.
import type { FastifySchemaValidationError } from 'fastify';
import { describe, nearest } from '../check.js';
import { ApiError } from './api-error.js';

export type Schema = Readonly<Record<string, unknown>>;
export type Fields = Readonly<Record<string, Schema>>;

/** A field that a request may leave out or set to null, which is the same. */
export function optional(schema: Schema): Schema {
  if ('enum' in schema) return { ...schema, enum: [...(schema['enum'] as unknown[]), null] };
  return { ...schema, type: [schema['type'], 'null'].flat() };
}

/**
 * A field of OpenAI's API that is not honoured here. It may be left out or null, or have a value that asks for nothing
 * else than what is done anyway.
 */
export function refused(reason: string, ...harmless: readonly unknown[]): Schema {
  const values = harmless.map((value) => JSON.stringify(value)).join(' or ');
  return { enum: [...harmless, null], 'x-refused': reason, description: `Not supported: ${reason}.${values ? ` Only ${values} is accepted.` : ''}` };
}

export function body(fields: Fields, required: readonly string[]): Schema {
  return { type: 'object', properties: fields, required, additionalProperties: false };
}

/** What ajv tells of a value that does not fit, with the schema and the value (its option `verbose`). */
interface Misfit extends FastifySchemaValidationError {
  parentSchema?: Schema;
  data?: unknown;
}

/** The first thing that is wrong with a request. */
export function misfit(errors: FastifySchemaValidationError[]): ApiError {
  // Of a choice between schemas, the branches come first and the choice itself last: that one names what is expected.
  const error = (errors.find(({ keyword }) => keyword === 'anyOf') ?? errors[0]!) as Misfit;
  const { keyword, params, parentSchema = {}, data } = error;
  const place = fieldName(error.instancePath);
  if (keyword === 'required') {
    const param = join(place, String(params['missingProperty']));
    return new ApiError(400, `Missing required field "${param}"`, { param, code: 'missing_required_parameter' });
  }
  if (keyword === 'additionalProperties') {
    const name = String(params['additionalProperty']);
    const hint = nearest(name, Object.keys((parentSchema['properties'] as Fields | undefined) ?? {}));
    const param = join(place, name);
    return new ApiError(400, `Unknown field "${param}"${hint ? `; did you mean "${hint}"?` : ''}`, { param, code: 'unknown_parameter' });
  }
  const param = place === '' ? null : place;
  const reason = parentSchema['x-refused'];
  if (typeof reason === 'string') return new ApiError(400, `"${place}" is not supported: ${reason}`, { param, code: 'unsupported_parameter' });
  const message = `Expected ${expected(parentSchema)} for ${place || 'the body'} but received ${describe(data)}`;
  return new ApiError(400, message, { param, code: 'invalid_value' });
}

/** "/messages/0/role" as "messages[0].role". */
function fieldName(path: string): string {
  return path
    .split('/')
    .slice(1)
    .reduce((name, part) => (/^\d+$/.test(part) ? `${name}[${part}]` : join(name, part.replaceAll('~1', '/').replaceAll('~0', '~'))), '');
}

function join(place: string, name: string): string {
  return place === '' ? name : `${place}.${name}`;
}

function expected(schema: Schema): string {
  if (typeof schema['x-expected'] === 'string') return schema['x-expected'];
  if (Array.isArray(schema['enum'])) return `one of ${schema['enum'].map((value) => JSON.stringify(value)).join(', ')}`;
  const type = [schema['type']].flat()[0];
  const { minimum, maximum, minItems, maxItems } = schema as Record<string, number | undefined>;
  if (type === 'array') return `an array of ${minItems ?? 0} to ${maxItems ?? 'many'} elements`;
  const names: Record<string, string> = { integer: 'an integer', number: 'a number', boolean: 'true or false', string: 'a string', object: 'an object' };
  const name = names[String(type)] ?? 'another value';
  if (minimum === undefined) return name;
  return maximum === undefined ? `${name} of at least ${minimum}` : `${name} from ${minimum} to ${maximum}`;
}
