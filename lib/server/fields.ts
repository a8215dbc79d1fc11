// The fields that both kinds of request have, and what the engine makes of them.
import { randomInt } from 'node:crypto';
import type { RequestOptions } from '../engine/options.js';
import { STRUCTURED_OUTPUTS, type StructuredOutputs } from './constraint-fields.js';
import { type ReportKind, REPORTS } from './report.js';
import { type Fields, optional, refused } from './schema.js';

/** Most prompts times texts of one request. */
export const MAX_TEXTS = 128;
const MAX_STOPS = 16;
/** OpenAI's temperature where none is given. */
const TEMPERATURE = 1;
/** So small that the likeliest token alone reaches it. */
const LEAST_SHARE = 1e-9;

export interface SharedFields {
  model: string;
  temperature?: number | null;
  top_p?: number | null;
  n?: number | null;
  stream?: boolean | null;
  stream_options?: { include_usage?: boolean | null } | null;
  stop?: string | string[] | null;
  seed?: number | null;
  frequency_penalty?: number | null;
  presence_penalty?: number | null;
  max_tokens?: number | null;
  user?: string | null;
  threshold?: number | null;
  top_k?: number | null;
  min_p?: number | null;
  repetition_penalty?: number | null;
  ignore_eos?: boolean | null;
  priority?: number | null;
  structured_outputs?: StructuredOutputs | null;
  report?: ReportKind | null;
}

export const MODEL = { type: 'string', description: 'A name from /v1/models.' };

export const SHARED: Fields = {
  model: MODEL,
  temperature: optional({ type: 'number', minimum: 0, maximum: 2, description: `0 always takes the likeliest token. Defaults to ${TEMPERATURE}.` }),
  top_p: optional({ type: 'number', minimum: 0, maximum: 1, description: 'Draws among the likeliest tokens with this probability together. Defaults to 1.' }),
  n: optional({ type: 'integer', minimum: 1, maximum: MAX_TEXTS, description: 'Texts to write. The prompt is read once. Defaults to 1.' }),
  stream: optional({ type: 'boolean', description: 'Send what is written as server-sent events.' }),
  stream_options: optional({
    type: 'object',
    properties: {
      include_usage: optional({ type: 'boolean', description: 'Send the token counts in a last event.' }),
      include_obfuscation: refused('events are not padded', false),
    },
    additionalProperties: false,
    description: 'Only with stream.',
  }),
  stop: {
    anyOf: [{ type: 'string', minLength: 1 }, { type: 'array', items: { type: 'string', minLength: 1 }, maxItems: MAX_STOPS }, { type: 'null' }],
    'x-expected': `a text that is not empty, or at most ${MAX_STOPS} of them,`,
    description: 'What ends the text. It is not part of the answer.',
  },
  seed: optional({
    type: 'integer', minimum: 0, maximum: Number.MAX_SAFE_INTEGER, description: 'The same seed and request give the same text, whatever runs beside. Defaults to another one each time.',
  }),
  frequency_penalty: optional({ type: 'number', minimum: -2, maximum: 2, description: 'Lowers a token for every time it was written. Defaults to 0.' }),
  presence_penalty: optional({ type: 'number', minimum: -2, maximum: 2, description: 'Lowers a token once if it was written. Defaults to 0.' }),
  max_tokens: optional({ type: 'integer', minimum: 1, description: 'Most tokens of a text.' }),
  user: optional({ type: 'string', description: 'Who asks: those who wait are served in turn.' }),
  logit_bias: refused('tokens cannot be favoured one by one', {}),
  threshold: optional({ type: 'number', minimum: 0, maximum: 2, description: 'Predicted utility from which a pair stays in the cache; 0 keeps all. Defaults to the model\'s own. An extension.' }),
  top_k: optional({ type: 'integer', minimum: 0, maximum: 1e9, description: 'Draws among so many of the likeliest tokens; 0: among all. Defaults to 0. An extension.' }),
  min_p: optional({ type: 'number', minimum: 0, maximum: 1, description: 'Leaves out what is less likely than this share of the likeliest token. Defaults to 0. An extension.' }),
  repetition_penalty: optional({
    type: 'number', minimum: 0.1, maximum: 10, description: 'Above 1 makes tokens that occurred, in the prompt too, less likely. Defaults to 1. An extension.',
  }),
  ignore_eos: optional({ type: 'boolean', description: 'Go on after an end-of-text token. An extension.' }),
  priority: optional({ type: 'integer', minimum: -100, maximum: 100, description: 'Higher goes first. Defaults to 0. An extension.' }),
  structured_outputs: STRUCTURED_OUTPUTS,
  report: optional({
    enum: [...REPORTS],
    description: 'What the answer tells of its making. "summary": usage.timing, and usage.cache, what each text holds by layer and head. "tokens": also choices[].kept, which layers and heads keep each token. '
      + 'With stream it needs stream_options.include_usage. An extension.',
  }),
};

/** What the engine is told. Fields that are absent or null keep the engine's defaults, where those are OpenAI's. */
export function requestOptions(fields: SharedFields, client: string): RequestOptions {
  const { top_p } = fields;
  const given: { [K in keyof RequestOptions]: RequestOptions[K] | null | undefined } = {
    temperature: fields.temperature ?? TEMPERATURE,
    topP: top_p === 0 ? LEAST_SHARE : top_p,
    n: fields.n,
    stop: fields.stop,
    seed: fields.seed ?? randomInt(2 ** 48 - 1),
    frequencyPenalty: fields.frequency_penalty,
    presencePenalty: fields.presence_penalty,
    threshold: fields.threshold,
    topK: fields.top_k,
    minP: fields.min_p,
    repetitionPenalty: fields.repetition_penalty,
    ignoreEos: fields.ignore_eos,
    priority: fields.priority,
    kept: fields.report === 'tokens' || null,
    client: fields.user ?? client,
  };
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== null && value !== undefined));
}
