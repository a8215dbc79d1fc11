import { type SharedFields, MAX_TEXTS, SHARED } from './fields.js';
import { body, optional, refused } from './schema.js';

export interface CompletionFields extends SharedFields {
  prompt: string | string[] | number[] | number[][];
  logprobs?: number | null;
  best_of?: number | null;
}

const tokens = { type: 'array', items: { type: 'integer', minimum: 0 }, minItems: 1 };

/** The body of POST /v1/completions: every field of OpenAI's API is here. */
export const COMPLETION_BODY = body(
  {
    ...SHARED,
    prompt: {
      anyOf: [{ type: 'string' }, { type: 'array', items: { type: 'string' }, minItems: 1, maxItems: MAX_TEXTS }, tokens, { type: 'array', items: tokens, minItems: 1, maxItems: MAX_TEXTS }],
      'x-expected': `a text, an array of token ids, or an array of 1 to ${MAX_TEXTS} of either,`,
      description: 'What is continued: a text or token ids, or several of either.',
    },
    logprobs: optional({ type: 'integer', minimum: 0, maximum: 20, description: 'Log-probabilities of the tokens, and of so many of the likeliest at each place.' }),
    max_tokens: optional({ type: 'integer', minimum: 1, description: 'Most tokens of a text. Defaults to 16.' }),
    best_of: optional({ type: 'integer', minimum: 1, description: 'Not supported but as the value of n: all texts that are written are given.' }),
    echo: refused('the prompt is not given back', false),
    suffix: refused('nothing is inserted before a text'),
  },
  ['model', 'prompt'],
);
