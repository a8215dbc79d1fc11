// What the server answers, for its OpenAPI document. Nothing is taken out of answers by these schemas.
import type { Schema } from './schema.js';

const string = { type: 'string' };
const integer = { type: 'integer' };
const number = { type: 'number' };
const list = (items: Schema, description?: string): Schema => ({ type: 'array', items, ...(description && { description }) });
const orNull = (schema: Schema): Schema => ({ anyOf: [schema, { type: 'null' }] });

/** An object that has all of `fields`, and perhaps some of `more`. */
function object(fields: Readonly<Record<string, Schema>>, more: Readonly<Record<string, Schema>> = {}): Schema {
  return { type: 'object', properties: { ...fields, ...more }, required: Object.keys(fields) };
}

const error = object({ error: object({ message: string, type: string, param: orNull(string), code: orNull(string) }) });
const ERRORS = {
  '4xx': { description: 'What is wrong with the request; `param` names the field. 429: come again after as many seconds as Retry-After says.', ...error },
  '5xx': { description: 'What is wrong with the server: 503 while it closes, 504 when an answer has taken too long.', ...error },
};

/** The answers of a route: JSON, or what `kinds` says. */
export function answers(description: string, schema: Schema, kinds: Readonly<Record<string, Schema>> = {}): Schema {
  const content = Object.fromEntries(Object.entries({ 'application/json': schema, ...kinds }).map(([kind, each]) => [kind, { schema: each }]));
  return { 200: { description, content }, ...ERRORS };
}

/** The answer of a route in plain text. */
export function textAnswer(description: string): Schema {
  return { 200: { description, content: { 'text/plain': { schema: string } } }, ...ERRORS };
}

const cache = object({
  length: { ...integer, description: 'Tokens in the cache.' },
  threshold: number,
  window: integer,
  density: { ...number, description: 'Kept pairs as a share of those that have left the window; 1 while none has.' },
  densities: list(list(number), 'The same for each layer and KV head.'),
  pairs: { ...integer, description: 'Pairs held, those in the window included, over all layers and KV heads.' },
  dense_pairs: { ...integer, description: 'Pairs that a dense cache would hold.' },
  bytes: { ...integer, description: 'Bytes of the pages held, half-filled ones included. Texts of one prompt share pages.' },
  dense_bytes: { ...integer, description: 'Bytes of a dense cache with no page half empty.' },
});

const usage = object(
  { prompt_tokens: integer, completion_tokens: integer, total_tokens: integer, prompt_tokens_details: object({ cached_tokens: integer }) },
  {
    timing: {
      ...object({ begun_after: number, first_token_after: number, ended_after: number }),
      description: 'With report: milliseconds since the request came until its prompt was begun, until its first token and until its end. An extension.',
    },
    cache: list(cache, 'With report: one for each text. An extension.'),
  },
);

const kept = list(
  object({ heads: { ...string, description: 'One bit for each layer and KV head, those of layer 0 first, four in a hexadecimal digit, the first in its highest bit: 1 where the pair stays when it leaves the window.' } }, {
    text: { ...string, description: 'What the token makes certain of the text; empty where characters are not complete.' },
    special: { ...string, description: 'Instead of text: the name of a special token.' },
    written: { type: 'boolean', description: 'True for tokens of the answer.' },
  }),
  'With report "tokens": the tokens that were read since the last event, those of the prompt first (with the first of its texts). The last token of a text is not read. An extension.',
);

const finishReason = { enum: ['stop', 'length', null] };
const head = { id: string, object: string, created: integer, model: string, system_fingerprint: string };

/** An answer with choices, and the events in which it is streamed. */
function generated(description: string, choice: Schema, event: Schema): Schema {
  const stream = object({ ...head, choices: list(event) }, { usage: { ...orNull(usage), description: 'With stream_options.include_usage: null but in the last event, which has no choices.' } });
  return answers(description, object({ ...head, choices: list(choice), usage }), {
    'text/event-stream': { ...stream, description: 'With stream: each event is `data: ` and such an object, or one with an `error`; the last one is `data: [DONE]`.' },
  });
}

const namedToken = object({ token: string, logprob: number, bytes: orNull(list(integer)) });
const chatLogprobs = orNull(object({ content: list(object({ token: string, logprob: number, bytes: orNull(list(integer)), top_logprobs: list(namedToken) })), refusal: { type: 'null' } }));
const chatChoice = (message: Readonly<Record<string, Schema>>) => object({ index: integer, ...message, logprobs: chatLogprobs, finish_reason: finishReason }, { kept });

export const CHAT_ANSWERS = generated(
  'The answers',
  chatChoice({ message: object({ role: { enum: ['assistant'] }, content: string, refusal: { type: 'null' } }) }),
  chatChoice({ delta: object({}, { role: { enum: ['assistant'] }, content: string, refusal: { type: 'null' } }) }),
);

const textLogprobs = orNull(object({
  tokens: list(string),
  token_logprobs: list(number),
  top_logprobs: orNull(list({ type: 'object', additionalProperties: number })),
  text_offset: list(integer),
}));
const textChoice = object({ index: integer, text: string, logprobs: textLogprobs, finish_reason: finishReason }, { kept });

export const COMPLETION_ANSWERS = generated('The texts that continue the prompts', textChoice, textChoice);

const model = object({
  id: string, object: { enum: ['model'] }, created: integer, owned_by: string,
  max_model_len: { ...integer, description: 'Tokens that prompt and answer have room for. An extension, as are those after it.' },
  threshold: { ...number, description: 'The one that is used where a request gives none.' },
  window: integer,
  layers: integer,
  kv_heads: integer,
  dense: { type: 'boolean', description: 'Whether the model has no predictors: it keeps everything.' },
  chat: { type: 'boolean', description: 'Whether it has a chat template.' },
});

export const MODEL_ANSWERS = answers('The model', model);
export const MODELS_ANSWERS = answers('The one model there is', object({ object: { enum: ['list'] }, data: list(model) }));
export const TOKENIZE_ANSWERS = answers('The tokens', object({ tokens: list(integer), count: integer, max_model_len: integer }));
export const DETOKENIZE_ANSWERS = answers('The text', object({ text: string }));
export const STATUS_ANSWERS = answers('How it is', object({ status: string }));

export const STATS_ANSWERS = answers('How it stands. Counts are since the start of the server', object({
  requests: object({ waiting: integer, finished: integer, failed: integer, refused: integer }),
  texts: { ...object({ reading: integer, writing: integer, paused: integer }), description: 'Whose prompt is read, that are written, and whose reader is behind.' },
  tokens: { ...object({ read: integer, cached: integer, written: integer }), description: 'Of prompts, read or found in the cache; and written.' },
  pool: object({ used_pages: integer, capacity_pages: integer, page_bytes: integer }),
  density: { ...number, description: 'Kept pairs as a share of those that have left the window, over the texts that have ended.' },
  preemptions: object({ saved: integer, dropped: integer }),
  prefixes: object({ states: integer, pages: integer, hits: integer, misses: integer, dropped: integer }),
}));
