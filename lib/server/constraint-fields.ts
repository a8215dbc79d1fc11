// What an answer shall be like: OpenAI's response_format, and the extension structured_outputs, named as in vLLM.
import type { ConstraintSource } from '../constrain/compile.js';
import type { Constraint } from '../constrain/constraint.js';
import type { JsonObject } from '../json.js';
import { ApiError, apiError } from './api-error.js';
import { optional, refused, type Schema } from './schema.js';
import type { Service } from './service.js';
import { checkStrict } from './strict-schema.js';

export interface ResponseFormat {
  type: 'text' | 'json_object' | 'json_schema';
  json_schema?: { name: string; description?: string | null; schema?: JsonObject | null; strict?: boolean | null } | null;
}

export interface StructuredOutputs {
  json?: JsonObject | null;
  regex?: string | null;
  choice?: string[] | null;
  json_object?: boolean | null;
}

export interface ConstraintFields {
  response_format?: ResponseFormat | null;
  structured_outputs?: StructuredOutputs | null;
  ignore_eos?: boolean | null;
}

export const RESPONSE_FORMAT: Schema = optional({
  type: 'object',
  properties: {
    type: { enum: ['text', 'json_object', 'json_schema'] },
    json_schema: optional({
      type: 'object',
      properties: {
        name: { type: 'string', pattern: '^[A-Za-z0-9_-]{1,64}$', 'x-expected': 'a name of 1 to 64 letters, digits, underscores or dashes' },
        description: optional({ type: 'string', description: 'For people. The model is not told of it, nor of the schema: say in a message what is wanted.' }),
        schema: optional({ type: 'object', description: 'What the answer fits, whatever the model would rather write. What is not honoured of it is refused by name.' }),
        strict: optional({ type: 'boolean', description: 'Refuse schemas that OpenAI\'s strict mode refuses. The answer fits the schema in either case.' }),
      },
      required: ['name'],
      additionalProperties: false,
    }),
  },
  required: ['type'],
  additionalProperties: false,
  description: 'The form of the answer: any text, an object of JSON, or JSON that fits a schema.',
});

export const STRUCTURED_OUTPUTS: Schema = optional({
  type: 'object',
  properties: {
    json: optional({ type: 'object', description: 'A JSON schema that the answer fits.' }),
    regex: optional({ type: 'string', description: 'A regular expression of JavaScript with the flag u that fits the whole answer. No lookaround, backreferences or word boundaries.' }),
    choice: optional({ type: 'array', items: { type: 'string', minLength: 1 }, minItems: 1, maxItems: 1000, description: 'Texts one of which is the answer.' }),
    json_object: optional({ type: 'boolean', description: 'The answer is an object of JSON.' }),
    grammar: refused('grammars are given as JSON schemas or regular expressions'),
    structural_tag: refused('the whole answer is constrained, or nothing of it'),
  },
  additionalProperties: false,
  description: 'What the answer shall be like; one of the ways. An extension.',
});

/** The constraint that a request asks for. Errors: 400 with the field. */
export async function constraintOf(service: Service, fields: ConstraintFields): Promise<Constraint | undefined> {
  const asked = [...formatSource(fields.response_format), ...extensionSources(fields.structured_outputs)];
  const [first, second] = asked;
  if (second) throw new ApiError(400, `"${second.param}" and "${first!.param}" exclude each other`, { param: second.param, code: 'invalid_value' });
  if (!first) return undefined;
  if (fields.ignore_eos) throw new ApiError(400, `"ignore_eos" does not go with "${first.param}": what is whole ends`, { param: 'ignore_eos', code: 'invalid_value' });
  return service.model.constrain(first.source).catch((error: unknown) => {
    throw apiError(error, first.param);
  });
}

interface Asked {
  source: ConstraintSource;
  /** The field that it comes from. */
  param: string;
}

const ANY_OBJECT = { jsonSchema: { type: 'object' } };

function formatSource(format: ResponseFormat | null | undefined): Asked[] {
  if (!format) return [];
  const { type, json_schema: given } = format;
  const param = 'response_format.json_schema';
  if (type !== 'json_schema') {
    if (given) throw new ApiError(400, `"${param}" needs the type "json_schema"`, { param, code: 'invalid_value' });
    return type === 'text' ? [] : [{ source: ANY_OBJECT, param: 'response_format' }];
  }
  if (!given?.schema) {
    const missing = given ? `${param}.schema` : param;
    throw new ApiError(400, `Missing required field "${missing}"`, { param: missing, code: 'missing_required_parameter' });
  }
  if (given.strict) checkStrict(given.schema, `${param}.schema`);
  return [{ source: { jsonSchema: given.schema }, param: `${param}.schema` }];
}

function extensionSources(given: StructuredOutputs | null | undefined): Asked[] {
  if (!given) return [];
  const { json, regex, choice, json_object } = given;
  const asked: (Asked | null | undefined | false)[] = [
    json && { source: { jsonSchema: json }, param: 'structured_outputs.json' },
    typeof regex === 'string' && { source: { regex }, param: 'structured_outputs.regex' },
    choice && { source: { regex: choice.map(escaped).join('|') }, param: 'structured_outputs.choice' },
    json_object && { source: ANY_OBJECT, param: 'structured_outputs.json_object' },
  ];
  return asked.filter((each) => !!each);
}

/** A text as a regular expression that fits it alone. */
function escaped(text: string): string {
  return text.replaceAll(/[\\^$.*+?()[\]{}|/]/g, '\\$&');
}
