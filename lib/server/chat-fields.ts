import { RESPONSE_FORMAT, type ResponseFormat } from './constraint-fields.js';
import { SHARED, type SharedFields } from './fields.js';
import { body, optional, refused } from './schema.js';

export interface MessageFields {
  role: 'system' | 'developer' | 'user' | 'assistant';
  content: string | { type: 'text'; text: string }[];
}

export interface ChatFields extends SharedFields {
  messages: MessageFields[];
  max_completion_tokens?: number | null;
  logprobs?: boolean | null;
  top_logprobs?: number | null;
  safety_identifier?: string | null;
  response_format?: ResponseFormat | null;
}

const NO_TOOLS = 'the model calls no tools';
const NO_AUDIO = 'it reads and writes text only';

const part = {
  type: 'object',
  properties: { type: { enum: ['text'] }, text: { type: 'string' } },
  required: ['type', 'text'],
  additionalProperties: false,
};

const message = {
  type: 'object',
  properties: {
    role: { enum: ['system', 'developer', 'user', 'assistant'], description: 'developer is the same as system.' },
    content: {
      anyOf: [{ type: 'string' }, { type: 'array', items: part, minItems: 1 }],
      'x-expected': 'a text, or an array of parts of type "text",',
      description: 'A text, or parts of it.',
    },
    name: refused('chat templates know roles only'),
    tool_calls: refused(NO_TOOLS, []),
    tool_call_id: refused(NO_TOOLS),
    function_call: refused(NO_TOOLS),
    refusal: refused('the model does not tell refusals from answers'),
    audio: refused(NO_AUDIO),
  },
  required: ['role', 'content'],
  additionalProperties: false,
};

/** The body of POST /v1/chat/completions: every field of OpenAI's API is here. */
export const CHAT_BODY = body(
  {
    ...SHARED,
    messages: { type: 'array', items: message, minItems: 1, description: 'The conversation, in the form of the checkpoint\'s chat template.' },
    max_tokens: optional({ type: 'integer', minimum: 1, description: 'The old name of max_completion_tokens.' }),
    max_completion_tokens: optional({ type: 'integer', minimum: 1, description: 'Most tokens of a text. Defaults to as many as the model has room for.' }),
    logprobs: optional({ type: 'boolean', description: 'Log-probabilities of the tokens.' }),
    top_logprobs: optional({ type: 'integer', minimum: 0, maximum: 20, description: 'And of so many of the likeliest at each place. Only with logprobs.' }),
    safety_identifier: optional({ type: 'string', description: 'The new name of user.' }),
    prompt_cache_key: optional({ type: 'string', description: 'All requests share one cache: it is not needed.' }),
    prompt_cache_retention: refused('what is in the cache gives way to what is used more', 'in_memory', 'in-memory'),
    tools: refused(NO_TOOLS, []),
    tool_choice: refused(NO_TOOLS, 'none', 'auto'),
    parallel_tool_calls: refused(NO_TOOLS, false, true),
    functions: refused(NO_TOOLS, []),
    function_call: refused(NO_TOOLS, 'none', 'auto'),
    response_format: RESPONSE_FORMAT,
    modalities: refused(NO_AUDIO, ['text']),
    audio: refused(NO_AUDIO),
    prediction: refused('nothing is gained from a guess at the answer'),
    reasoning_effort: refused('reasoning cannot be told from the answer', 'none'),
    verbosity: refused('answers are as long as the model makes them', 'medium'),
    web_search_options: refused('nothing is searched'),
    service_tier: refused('all are served alike; there is the extension "priority"', 'auto', 'default'),
    store: refused('answers are not kept', false),
    metadata: refused('answers are not kept', {}),
  },
  ['model', 'messages'],
);
