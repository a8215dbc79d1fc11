import type { FastifyInstance } from 'fastify';
import type { TextToken } from '../engine/events.js';
import { answer, type Form } from './answer.js';
import { ApiError } from './api-error.js';
import { COMPLETION_BODY, type CompletionFields } from './completion-fields.js';
import { constraintOf } from './constraint-fields.js';
import { MAX_TEXTS, requestOptions } from './fields.js';
import { COMPLETION_ANSWERS } from './responses.js';
import { checkModel, type Service } from './service.js';

/** OpenAI's. */
const MAX_TOKENS = 16;

/** POST /v1/completions */
export function completionRoutes(app: FastifyInstance, service: Service): void {
  const schema = { summary: 'Continues texts', body: COMPLETION_BODY, response: COMPLETION_ANSWERS, tags: ['OpenAI'] };
  app.post<{ Body: CompletionFields }>('/v1/completions', { schema }, async (request, reply) => {
    const fields = request.body;
    checkModel(service, fields.model);
    const prompts = promptsOf(fields.prompt);
    const n = fields.n ?? 1;
    if (prompts.length * n > MAX_TEXTS) {
      throw new ApiError(400, `Expected at most ${MAX_TEXTS} texts, prompts times n, but received ${prompts.length * n}`, { param: 'n', code: 'invalid_value' });
    }
    if ((fields.best_of ?? n) !== n) {
      throw new ApiError(400, `"best_of" is not supported: all texts that are written are given; expected ${n}, the value of n`, { param: 'best_of', code: 'unsupported_parameter' });
    }
    const asked = fields.max_tokens ? { value: fields.max_tokens, param: 'max_tokens' } : undefined;
    const encode = async (prompt: string | number[]) => {
      const ids = typeof prompt === 'string' ? await service.encoder.text(prompt) : prompt;
      return { ids, maxTokens: service.limits.maxTokens(ids, asked, MAX_TOKENS, 'prompt'), param: 'prompt' };
    };
    const encoded = await Promise.all(prompts.map(encode));
    const options = requestOptions(fields, request.client);
    if (typeof fields.logprobs === 'number') options.logprobs = fields.logprobs;
    const constraint = await constraintOf(service, fields);
    if (constraint) options.constraint = constraint;
    return answer(service, request, reply, fields, encoded, options, form(service, `cmpl-${request.id}`, fields.logprobs ?? undefined));
  });
}

function promptsOf(prompt: CompletionFields['prompt']): (string | number[])[] {
  if (typeof prompt === 'string') return [prompt];
  return typeof prompt[0] === 'number' ? [prompt as number[]] : (prompt as (string | number[])[]);
}

function form(service: Service, id: string, logprobs: number | undefined): Form {
  /** Characters of each text before its next token. */
  const offsets = new Map<number, number>();
  const choice = (index: number, text: string, tokens: readonly TextToken[], finishReason: string | undefined) => ({
    index,
    text,
    logprobs: logprobs === undefined ? null : logprobsOf(service, tokens, logprobs, offsets, index),
    finish_reason: finishReason ?? null,
  });
  return {
    head: { id, object: 'text_completion' },
    chunk: 'text_completion',
    choice: (index, { text, tokens, finishReason }) => choice(index, text, tokens, finishReason),
    pieces({ index, text, tokens, finishReason, kept }) {
      return text === '' && logprobs === undefined && finishReason === undefined && !kept ? [] : [choice(index, text, tokens, finishReason)];
    },
  };
}

/** Tokens that stand for no text, such as the one at the end, are left out. */
function logprobsOf({ tokenTexts }: Service, tokens: readonly TextToken[], count: number, offsets: Map<number, number>, index: number): object {
  const shown = tokens.filter(({ id }) => tokenTexts.of(id).bytes !== null);
  const names = shown.map(({ id }) => tokenTexts.name(id));
  return {
    tokens: names,
    token_logprobs: shown.map(({ logprob }) => logprob),
    top_logprobs:
      count === 0
        ? null
        : shown.map(({ id, logprob, top }) => Object.fromEntries([...top!, { id, logprob: logprob! }].map((token) => [tokenTexts.name(token.id), token.logprob]))),
    text_offset: shown.map(({ id }) => {
      const offset = offsets.get(index) ?? 0;
      offsets.set(index, offset + tokenTexts.of(id).text.length);
      return offset;
    }),
  };
}
