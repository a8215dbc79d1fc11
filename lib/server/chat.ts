import type { FastifyInstance } from 'fastify';
import type { TextToken } from '../engine/events.js';
import type { ChatMessage } from '../text/chat-template.js';
import { answer, type Form } from './answer.js';
import { ApiError, apiError } from './api-error.js';
import { CHAT_BODY, type ChatFields, type MessageFields } from './chat-fields.js';
import { constraintOf } from './constraint-fields.js';
import { requestOptions } from './fields.js';
import { CHAT_ANSWERS } from './responses.js';
import { checkModel, type Service } from './service.js';

/** POST /v1/chat/completions */
export function chatRoutes(app: FastifyInstance, service: Service): void {
  const schema = { summary: 'Answers conversations', body: CHAT_BODY, response: CHAT_ANSWERS, tags: ['OpenAI'] };
  app.post<{ Body: ChatFields }>('/v1/chat/completions', { schema }, async (request, reply) => {
    const fields = request.body;
    checkModel(service, fields.model);
    const logprobs = fields.logprobs ? (fields.top_logprobs ?? 0) : undefined;
    if (typeof fields.top_logprobs === 'number' && logprobs === undefined) {
      throw new ApiError(400, '"top_logprobs" needs "logprobs"', { param: 'top_logprobs', code: 'invalid_value' });
    }
    const ids = await service.encoder.chat(fields.messages.map(messageOf)).catch((error: unknown) => {
      throw apiError(error, 'messages');
    });
    const maxTokens = service.limits.maxTokens(ids, askedTokens(fields), Infinity, 'messages');
    const options = requestOptions(fields, fields.safety_identifier ?? request.client);
    if (logprobs !== undefined) options.logprobs = logprobs;
    const constraint = await constraintOf(service, fields);
    if (constraint) options.constraint = constraint;
    return answer(service, request, reply, fields, [{ ids, maxTokens, param: 'messages' }], options, form(service, `chatcmpl-${request.id}`, logprobs !== undefined));
  });
}

function messageOf({ role, content }: MessageFields): ChatMessage {
  const text = typeof content === 'string' ? content : content.map((part) => part.text).join('');
  return { role: role === 'developer' ? 'system' : role, content: text };
}

function askedTokens({ max_completion_tokens: value, max_tokens: old }: ChatFields): { value: number; param: string } | undefined {
  if (value && old && value !== old) {
    throw new ApiError(400, `"max_tokens" is the old name of "max_completion_tokens": expected ${value} or nothing for it but received ${old}`, { param: 'max_tokens', code: 'invalid_value' });
  }
  if (value) return { value, param: 'max_completion_tokens' };
  return old ? { value: old, param: 'max_tokens' } : undefined;
}

function form(service: Service, id: string, withLogprobs: boolean): Form {
  const begun = new Set<number>();
  const logprobs = (tokens: readonly TextToken[]) => (withLogprobs ? logprobsOf(service, tokens) : null);
  return {
    head: { id, object: 'chat.completion' },
    chunk: 'chat.completion.chunk',
    choice: (index, { text, tokens, finishReason }) => ({
      index,
      message: { role: 'assistant', content: text, refusal: null },
      logprobs: logprobs(tokens),
      finish_reason: finishReason,
    }),
    pieces({ index, text, tokens, finishReason, kept }) {
      const piece = (delta: object, of: readonly TextToken[] = [], finish_reason: string | null = null) => ({
        index, delta, logprobs: of.length > 0 ? logprobs(of) : null, finish_reason,
      });
      const pieces = [];
      if (!begun.has(index)) pieces.push(piece({ role: 'assistant', content: '', refusal: null }));
      begun.add(index);
      if (text !== '' || withLogprobs || kept) pieces.push(piece({ content: text }, tokens));
      if (finishReason !== undefined) pieces.push(piece({}, [], finishReason));
      return pieces;
    },
  };
}

/** Tokens that stand for no text, such as the one at the end, are left out. */
function logprobsOf({ tokenTexts }: Service, tokens: readonly TextToken[]): object {
  const named = (id: number, logprob: number) => {
    const { text, bytes } = tokenTexts.of(id);
    return { token: text, logprob, bytes };
  };
  const content = tokens
    .filter(({ id }) => tokenTexts.of(id).bytes !== null)
    .map(({ id, logprob, top }) => ({ ...named(id, logprob!), top_logprobs: top!.map((token) => named(token.id, token.logprob)) }));
  return { content, refusal: null };
}
