import { isObject, type JsonObject } from '../json.js';
import { ApiError } from './api-error.js';

/** Keywords whose values are schemas, lists of them, or objects of them. */
const ONE = ['items', 'additionalProperties'];
const LISTS = ['anyOf', 'oneOf', 'allOf', 'prefixItems'];
const MAPS = ['properties', '$defs', 'definitions'];

/**
 * What OpenAI's strict mode asks of a schema beside what it supports: the whole is an object, and all objects require all
 * of their members and have no others. Errors: 400 with the place.
 */
export function checkStrict(root: JsonObject, param: string): void {
  const refuse = (reason: string, path: string) => {
    throw new ApiError(400, `A strict schema needs ${reason} at ${path}`, { param, code: 'invalid_value' });
  };
  if (root['anyOf'] !== undefined) refuse('an object, not a choice,', '#');
  if (root['type'] !== 'object' && root['$ref'] === undefined) refuse('"type": "object"', '#');
  const open: [schema: unknown, path: string][] = [[root, '#']];
  for (let next = open.pop(); next; next = open.pop()) {
    const [schema, path] = next;
    if (!isObject(schema)) continue;
    if (schema['properties'] !== undefined || [schema['type']].flat().includes('object')) {
      if (schema['additionalProperties'] !== false) refuse('"additionalProperties": false', path);
      const required = Array.isArray(schema['required']) ? new Set(schema['required']) : new Set();
      const missing = Object.keys(isObject(schema['properties']) ? schema['properties'] : {}).find((name) => !required.has(name));
      if (missing !== undefined) refuse(`"${missing}" in "required"`, path);
    }
    for (const keyword of ONE) open.push([schema[keyword], `${path}/${keyword}`]);
    for (const keyword of LISTS) {
      const list = schema[keyword];
      if (Array.isArray(list)) list.forEach((each, i) => open.push([each, `${path}/${keyword}/${i}`]));
    }
    for (const keyword of MAPS) {
      const map = schema[keyword];
      if (isObject(map)) for (const [name, each] of Object.entries(map)) open.push([each, `${path}/${keyword}/${name}`]);
    }
  }
}
