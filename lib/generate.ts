import { ANSWER_OPTION_NAMES, type AnswerOptions, type ResolvedAnswer, resolveAnswer } from './answer-options.js';
import { abortSignal, callback, options } from './check.js';
import { SpkvError } from './errors.js';
import { type CacheReport, reportCache } from './report.js';
import { Session } from './session.js';
import { Answer } from './text/answer.js';
import type { TextModel } from './text-model.js';

/** How {@link TextModel.generate} goes on with a prompt; all optional. */
export interface GenerateOptions extends AnswerOptions {
  /** A session to continue; without one the sequence is freed at the end. */
  session?: Session;
  /** Told the tokens read and to be read while the prompt is prefilled. */
  onPrefill?: (done: number, total: number) => void;
  /** Ends the generation with the signal's reason. */
  signal?: AbortSignal;
}

const OPTION_NAMES = [...ANSWER_OPTION_NAMES, 'session', 'onPrefill', 'signal'] as const;

/** What a generation has come to, as of its end. */
export interface GenerationResult {
  text: string;
  /** The generated tokens, an end-of-text token included. */
  ids: number[];
  /** 'stop': end of text or a stop string; 'length': maxTokens or the model's positions; 'cancelled': the caller left the loop. */
  finishReason: 'stop' | 'length' | 'cancelled';
  usage: {
    promptTokens: number;
    /** Prompt tokens that a session had read before. */
    cachedTokens: number;
    completionTokens: number;
    prefillSeconds: number;
    decodeSeconds: number;
  };
  cache: CacheReport;
}

/** A text being generated: iterate over its pieces, or take all of it with `text()`. */
export interface Generation extends AsyncIterable<string, void, void> {
  /** Resolves when the iteration has ended. */
  readonly result: Promise<GenerationResult>;
  /** Generates to the end and resolves with the whole text. */
  text(): Promise<string>;
}

/** See {@link TextModel.generate}. */
export function generate(model: TextModel, prompt: string | readonly number[], opts?: GenerateOptions): Generation {
  const request = resolve(model, prompt, opts);
  let finish!: (result: GenerationResult) => void;
  let fail!: (reason: unknown) => void;
  const result = new Promise<GenerationResult>((onFinish, onFail) => {
    finish = onFinish;
    fail = onFail;
  });
  result.catch(() => {}); // whoever iterates gets the error there
  const pieces = run(model, request, finish, fail);
  return {
    result,
    [Symbol.asyncIterator]: () => pieces,
    async text() {
      for await (const _ of pieces);
      return (await result).text;
    },
  };
}

interface Request extends ResolvedAnswer {
  session: Session | undefined;
  onPrefill: ((done: number, total: number) => void) | undefined;
  signal: AbortSignal | undefined;
}

function resolve(model: TextModel, prompt: string | readonly number[], opts?: GenerateOptions): Request {
  const { session, onPrefill, signal, ...answer } = options(opts, 'generate options', OPTION_NAMES);
  if (session !== undefined && session.model !== model) throw new SpkvError('INVALID_ARGUMENT', 'The session belongs to another model');
  if (session !== undefined && answer.threshold !== undefined && answer.threshold !== session.threshold) {
    throw new SpkvError('INVALID_ARGUMENT', `The session keeps its threshold of ${session.threshold}`);
  }
  const resolved = resolveAnswer(model, prompt, session ? { ...answer, threshold: session.threshold } : answer);
  return { ...resolved, session, onPrefill: callback(onPrefill, 'onPrefill'), signal: abortSignal(signal, 'signal') };
}

async function* run(
  model: TextModel, request: Request, finish: (result: GenerationResult) => void, fail: (reason: unknown) => void,
): AsyncGenerator<string, void, void> {
  const { ids: prompt, signal } = request;
  const session = request.session ?? new Session(model, request.threshold);
  const text: string[] = [];
  const ids: number[] = [];
  let finishReason: GenerationResult['finishReason'] = 'cancelled';
  let fresh = 0;
  let start = performance.now();
  let prefillSeconds = 0;
  let failed = false;
  try {
    signal?.throwIfAborted();
    using _ = session.take();
    const prepared = await session.prepare(prompt, {
      ...(request.onPrefill ? { onProgress: request.onPrefill } : {}),
      ...(signal ? { signal } : {}),
    });
    fresh = prepared.fresh;
    prefillSeconds = (performance.now() - start) / 1000;
    start = performance.now();
    const progress = request.constraint?.begin();
    using decoder = model.createDecoder([
      { sequence: prepared.sequence, next: prompt.at(-1)!, sampling: request.sampling, prompt, ...(progress && { progress }) },
    ]);
    const answer = new Answer(model.tokenizer, request);
    let next = prompt.at(-1)!;
    while (answer.finishReason === undefined) {
      signal?.throwIfAborted();
      session.note(next);
      const [id] = await decoder.step();
      next = id!;
      ids.push(id!);
      const piece = answer.push(id!, progress?.complete);
      if (piece) {
        text.push(piece);
        yield piece;
      }
    }
    finishReason = answer.finishReason;
  } catch (error) {
    failed = true;
    fail(error);
    throw error;
  } finally {
    const decodeSeconds = (performance.now() - start) / 1000;
    const conclude = async (): Promise<GenerationResult> => {
      if (!session.sequence) throw new SpkvError('DISPOSED', 'The session was reset while it was in use');
      return {
        text: text.join(''),
        ids,
        finishReason,
        usage: {
          promptTokens: prompt.length,
          cachedTokens: prompt.length - 1 - fresh,
          completionTokens: ids.length,
          prefillSeconds,
          decodeSeconds,
        },
        cache: await reportCache(session.sequence),
      };
    };
    if (!failed) await conclude().then(finish, fail);
    if (!request.session) await session.dispose();
  }
}
