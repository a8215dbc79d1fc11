import { ANSWER_OPTION_NAMES, type AnswerOptions, type ResolvedAnswer, resolveAnswer } from '../answer-options.js';
import { abortSignal, boolean, callback, integer, isFiniteNumber, invalid, number, oneOf, options, string } from '../check.js';
import { SpkvError } from '../errors.js';
import type { Model } from '../model/model.js';
import { checkTokenIds } from '../model/token-ids.js';
import type { TextModel } from '../text-model.js';
import type { RequestRecord, StepRecord } from './stats.js';

/** How many texts an engine has in hand, and what it keeps for later ones; all optional. */
export interface EngineOptions {
  /** Most texts that are read and written at a time. Defaults to 32. */
  maxSequences?: number;
  /**
   * Most tokens of one step: one for each text that is being written, the rest for pieces of prompts. At least the
   * model's chunk and one for every sequence, which is the default.
   */
  stepTokens?: number;
  /** Most requests that wait to be begun; one more is refused as OVERLOADED. Defaults to 256. */
  maxWaiting?: number;
  /**
   * Which states in the cache are kept for later requests that begin with the same tokens (see prefixes.ts). 'exact':
   * those that change nothing, to the bit; 'turns': also the ends of answers, so that a conversation goes on as a
   * session does; 'none'. Defaults to 'turns'.
   */
  reuse?: 'turns' | 'exact' | 'none';
  /** The share of the pool that such states may hold. They give way to requests. Defaults to 0.5. */
  reuseShare?: number;
  /** Tokens that a reader may be behind before its request pauses. Defaults to 1024. */
  readAhead?: number;
  /** Told of every step. */
  onStep?: (record: StepRecord) => void;
  /** Told of every request that has ended, however it ended. */
  onRequest?: (record: RequestRecord) => void;
}

/** {@link EngineOptions} with every default filled in. */
export type ResolvedEngineOptions = Required<Omit<EngineOptions, 'onStep' | 'onRequest'>> & Pick<EngineOptions, 'onStep' | 'onRequest'>;

export const ENGINE_OPTION_NAMES = ['maxSequences', 'stepTokens', 'maxWaiting', 'reuse', 'reuseShare', 'readAhead', 'onStep', 'onRequest'] as const satisfies readonly (keyof EngineOptions)[];

export function resolveEngineOptions(model: Model, opts?: EngineOptions): ResolvedEngineOptions {
  const given = options(opts, 'engine options', ENGINE_OPTION_NAMES);
  const maxSequences = integer(given.maxSequences ?? 32, 'maxSequences', 1, 4096);
  const least = model.chunk + maxSequences;
  const [onStep, onRequest] = [callback(given.onStep, 'onStep'), callback(given.onRequest, 'onRequest')];
  return {
    maxSequences,
    stepTokens: integer(given.stepTokens ?? least, 'stepTokens', least, 1 << 20),
    maxWaiting: integer(given.maxWaiting ?? 256, 'maxWaiting', 0, 1 << 20),
    reuse: oneOf(given.reuse ?? 'turns', 'reuse', ['turns', 'exact', 'none']),
    reuseShare: number(given.reuseShare ?? 0.5, 'reuseShare', 0, 1),
    readAhead: integer(given.readAhead ?? 1024, 'readAhead', 1),
    ...(onStep && { onStep }),
    ...(onRequest && { onRequest }),
  };
}

/** How a request is to be answered; all optional. */
export interface RequestOptions extends AnswerOptions {
  /** Texts to write; the prompt is read once. Text i is drawn with seed + i. Defaults to 1. */
  n?: number;
  /** Log-probabilities of the tokens, and of so many of the likeliest at each place: 0 to 64. Defaults to none. */
  logprobs?: number;
  /**
   * Tell of every token that is read which layers and heads keep it. Costs a little time per step, and states in the
   * cache are used only if they stem from such requests. Defaults to false.
   */
  kept?: boolean;
  /** Higher goes first, and is the last to make room. An integer from -100 to 100. Defaults to 0. */
  priority?: number;
  /** On whose behalf: clients that wait are served in turn, by tokens. Defaults to one for all. */
  client?: string;
  /** Milliseconds within which the request must have ended; else it fails with DEADLINE. Defaults to no limit. */
  deadline?: number;
  /** Ends the request with the signal's reason; its memory is free before the next step. */
  signal?: AbortSignal;
}

/** {@link RequestOptions} checked, with every default filled in. */
export interface ResolvedRequest extends ResolvedAnswer {
  n: number;
  logprobs: number | undefined;
  kept: boolean;
  priority: number;
  client: string;
  deadline: number;
  signal: AbortSignal | undefined;
}

const REQUEST_NAMES = [...ANSWER_OPTION_NAMES, 'n', 'logprobs', 'kept', 'priority', 'client', 'deadline', 'signal'] as const;

export function resolveRequest(
  model: TextModel, maxSequences: number, prompt: string | readonly number[], opts?: RequestOptions,
): ResolvedRequest {
  const { n, logprobs, kept, priority, client, deadline, signal, ...answer } = options(opts, 'request options', REQUEST_NAMES);
  const resolved = resolveAnswer(model, prompt, answer);
  checkTokenIds(resolved.ids, 'prompt', model.config.vocabSize);
  const texts = integer(n ?? 1, 'n', 1, 4096);
  if (texts > maxSequences) {
    throw new SpkvError('INVALID_ARGUMENT', `Expected at most ${maxSequences} for n, the engine's maxSequences, but received ${texts}`);
  }
  if (deadline !== undefined && !isFiniteNumber(deadline, 0)) throw invalid('milliseconds, a number of at least 0,', 'deadline', deadline);
  return {
    ...resolved,
    n: texts,
    logprobs: logprobs === undefined ? undefined : integer(logprobs, 'logprobs', 0, Math.min(64, model.config.vocabSize)),
    kept: boolean(kept ?? false, 'kept'),
    priority: integer(priority ?? 0, 'priority', -100, 100),
    client: string(client ?? '', 'client'),
    deadline: deadline ?? Infinity,
    signal: abortSignal(signal, 'signal'),
  };
}
