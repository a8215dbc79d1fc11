import { Readable } from 'node:stream';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { TextEvent } from '../engine/events.js';
import type { RequestOptions } from '../engine/options.js';
import type { Request, RequestResult } from '../engine/request.js';
import { ApiError, apiError } from './api-error.js';
import type { SharedFields } from './fields.js';
import { merge } from './merge.js';
import { KeptTexts, reportOf } from './report.js';
import type { Service } from './service.js';

/** A prompt as the engine takes it. */
export interface Prompt {
  ids: readonly number[];
  maxTokens: number;
  /** The field that it comes from. */
  param: string;
}

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
  prompt_tokens_details: { cached_tokens: number };
}

/** How an endpoint writes what the engine answers. `index` counts the texts of all prompts. */
export interface Form {
  /** The choice of a text that has ended. */
  choice(index: number, text: RequestResult['choices'][number]): object;
  /** What is sent of an event: each element is a choice of an event of its own. */
  pieces(event: TextEvent): object[];
  /** What the answer, or each event, has beside its choices. */
  head: { id: string; object: string };
  /** The `object` of events. */
  chunk: string;
}

/** Answers prompts, in one piece or as server-sent events. */
export async function answer(
  service: Service, request: FastifyRequest, reply: FastifyReply, fields: SharedFields, prompts: readonly Prompt[], options: RequestOptions, form: Form,
): Promise<object> {
  const { stream_options, report } = fields;
  const includeUsage = stream_options?.include_usage === true;
  if (stream_options && !fields.stream) {
    throw new ApiError(400, '"stream_options" needs "stream"', { param: 'stream_options', code: 'invalid_value' });
  }
  if (report && fields.stream && !includeUsage) {
    throw new ApiError(400, 'With "stream", "report" needs "include_usage" in "stream_options"', { param: 'report', code: 'invalid_value' });
  }
  const n = options.n ?? 1;
  const { maxSequences } = service.engine;
  if (n > maxSequences) throw new ApiError(400, `Expected at most ${maxSequences} for n but received ${n}`, { param: 'n', code: 'invalid_value' });
  const head = { ...form.head, created: Math.floor(Date.now() / 1000), model: service.options.name, system_fingerprint: service.fingerprint };
  const { answerTimeout: deadline } = service.options;
  const requests = begin(service, prompts, { ...options, ...(deadline > 0 && { deadline }), signal: whileConnected(reply) });
  const keptTexts = report === 'tokens' ? new KeptTexts(service.model, prompts, n) : undefined;
  const usage = (results: readonly RequestResult[]) => {
    request.usage = usageOf(results);
    return { ...request.usage, ...(report && reportOf(results)) };
  };
  if (!fields.stream) {
    const results = await all(requests);
    const choices = results.flatMap((result, i) =>
      result.choices.map((text, j) => ({ ...form.choice(i * n + j, text), ...(keptTexts && { kept: keptTexts.all(i * n + j, text.kept!) }) })));
    return { ...head, choices, usage: usage(results) };
  }
  const events = merge(requests, n);
  // What goes wrong before anything has been written is an answer with a status of its own.
  const first = await events.next();
  const chunk = { ...head, object: form.chunk };
  async function* lines(): AsyncGenerator<string, void, void> {
    try {
      for (let event = first; !event.done; event = await events.next()) {
        let kept = keptTexts?.next(event.value.index, event.value.kept!);
        for (const choice of form.pieces(event.value)) {
          yield line({ ...chunk, choices: [kept ? { ...choice, kept } : choice], ...(includeUsage && { usage: null }) });
          kept = undefined;
        }
      }
      const last = usage(await all(requests));
      if (includeUsage) yield line({ ...chunk, choices: [], usage: last });
      yield 'data: [DONE]\n\n';
    } catch (error) {
      const failure = apiError(error);
      if (failure.status >= 500) request.log.error({ err: failure.cause ?? failure }, 'an answer has failed');
      yield line(failure.body);
    } finally {
      await events.return();
    }
  }
  reply.header('cache-control', 'no-cache').header('x-accel-buffering', 'no').type('text/event-stream; charset=utf-8');
  return reply.send(Readable.from(lines(), { objectMode: false }));
}

/** Hands all prompts to the engine, or none. */
function begin({ engine }: Service, prompts: readonly Prompt[], options: RequestOptions): Request[] {
  const requests: Request[] = [];
  for (const { ids, maxTokens, param } of prompts) {
    try {
      requests.push(engine.generate(ids, { ...options, maxTokens }));
    } catch (error) {
      for (const request of requests) request.cancel();
      throw apiError(error, param);
    }
  }
  return requests;
}

/** The results of all requests; when one fails the others are of no use. */
async function all(requests: readonly Request[]): Promise<RequestResult[]> {
  try {
    return await Promise.all(requests.map(({ result }) => result));
  } catch (error) {
    for (const request of requests) request.cancel();
    throw error;
  }
}

/** Aborted when the client leaves before it has its answer. */
function whileConnected(reply: FastifyReply): AbortSignal {
  const controller = new AbortController();
  const left = () => controller.abort(new ApiError(499, 'The client has left'));
  if (reply.raw.destroyed) left();
  reply.raw.once('close', () => {
    if (!reply.raw.writableFinished) left();
  });
  return controller.signal;
}

function usageOf(results: readonly RequestResult[]): Usage {
  const sum = (count: (usage: RequestResult['usage']) => number) => results.reduce((total, { usage }) => total + count(usage), 0);
  const prompt = sum(({ promptTokens }) => promptTokens);
  const completion = sum(({ completionTokens }) => completionTokens);
  return {
    prompt_tokens: prompt,
    completion_tokens: completion,
    total_tokens: prompt + completion,
    prompt_tokens_details: { cached_tokens: sum(({ cachedTokens }) => cachedTokens) },
  };
}

function line(value: object): string {
  return `data: ${JSON.stringify(value)}\n\n`;
}
