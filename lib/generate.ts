import { abortSignal, boolean, callback, integer, invalid, number, options } from './check.js';
import { SpkvError } from './errors.js';
import { type CacheReport, reportCache } from './report.js';
import { resolveSampling, type SamplingOptions } from './sampling-options.js';
import { Session } from './session.js';
import { StopStrings } from './text/stop-strings.js';
import { StreamDecoder } from './text/stream-decoder.js';
import type { TextModel } from './text-model.js';

export interface GenerateOptions extends SamplingOptions {
  /** Most tokens to generate. Defaults to 256. */
  maxTokens?: number;
  /** τ: pairs with a predicted utility below it are dropped when they leave the window. Defaults to the model's own. */
  threshold?: number;
  /** Text that ends the generation; it is not part of the output. */
  stop?: string | readonly string[];
  /** Go on after an end-of-text token. Defaults to false. */
  ignoreEos?: boolean;
  /** A session to continue; without one the sequence is freed at the end. */
  session?: Session;
  /** Told the tokens read and to be read while the prompt is prefilled. */
  onPrefill?: (done: number, total: number) => void;
  /** Ends the generation with the signal's reason. */
  signal?: AbortSignal;
}

const OPTION_NAMES = [
  'maxTokens', 'threshold', 'stop', 'ignoreEos', 'session', 'onPrefill', 'signal', 'temperature', 'topK', 'topP', 'minP',
  'repetitionPenalty', 'frequencyPenalty', 'presencePenalty', 'seed',
] as const;

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

interface Request {
  ids: readonly number[];
  maxTokens: number;
  threshold: number;
  stop: readonly string[];
  eosTokenIds: ReadonlySet<number>;
  sampling: SamplingOptions;
  session: Session | undefined;
  onPrefill: ((done: number, total: number) => void) | undefined;
  signal: AbortSignal | undefined;
}

function resolve(model: TextModel, prompt: string | readonly number[], opts?: GenerateOptions): Request {
  const given = options(opts, 'generate options', OPTION_NAMES);
  const { maxTokens, threshold, stop, ignoreEos, session, onPrefill, signal, ...sampling } = given;
  resolveSampling(sampling);
  const stops = typeof stop === 'string' ? [stop] : (stop ?? []);
  if (!Array.isArray(stops) || stops.some((text) => typeof text !== 'string' || text === '')) {
    throw invalid('a non-empty string or an array of them', 'stop', stop);
  }
  if (session !== undefined && session.model !== model) throw new SpkvError('INVALID_ARGUMENT', 'The session belongs to another model');
  if (session !== undefined && threshold !== undefined && threshold !== session.threshold) {
    throw new SpkvError('INVALID_ARGUMENT', `The session keeps its threshold of ${session.threshold}`);
  }
  const ids = typeof prompt === 'string' ? model.encode(prompt) : prompt;
  if (!Array.isArray(ids)) throw invalid('a string or an array of token ids', 'prompt', prompt);
  if (ids.length === 0) throw invalid('a prompt of at least one token', 'prompt', prompt);
  const { maxPositions, eosTokenIds } = model.config;
  if (ids.length > maxPositions) {
    throw new SpkvError('OUT_OF_RANGE', `The prompt has ${ids.length} tokens; the model was made for at most ${maxPositions}`);
  }
  const ignore = ignoreEos !== undefined && boolean(ignoreEos, 'ignoreEos');
  return {
    ids,
    maxTokens: Math.min(integer(maxTokens ?? 256, 'maxTokens', 1), maxPositions - ids.length + 1),
    threshold: threshold === undefined ? (session?.threshold ?? model.threshold) : number(threshold, 'threshold', 0, 2),
    stop: stops,
    eosTokenIds: new Set(ignore ? [] : eosTokenIds),
    sampling,
    session,
    onPrefill: callback(onPrefill, 'onPrefill'),
    signal: abortSignal(signal, 'signal'),
  };
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
    using decoder = model.createDecoder([
      { sequence: prepared.sequence, next: prompt.at(-1)!, sampling: request.sampling, prompt },
    ]);
    const stream = model.tokenizer ? new StreamDecoder(model.tokenizer) : undefined;
    const stops = new StopStrings(request.stop);
    let next = prompt.at(-1)!;
    while (ids.length < request.maxTokens) {
      signal?.throwIfAborted();
      const [id] = await decoder.step();
      session.note(next);
      next = id!;
      ids.push(id!);
      if (request.eosTokenIds.has(id!)) {
        finishReason = 'stop';
        break;
      }
      const piece = stops.push(stream ? stream.push(id!) : `${id} `);
      if (piece) {
        text.push(piece);
        yield piece;
      }
      if (stops.stopped) {
        finishReason = 'stop';
        break;
      }
      if (ids.length === request.maxTokens) finishReason = 'length';
    }
    const rest = stops.stopped ? '' : stops.push(stream?.flush() ?? '') + stops.flush();
    if (stops.stopped) finishReason = 'stop'; // the last characters may be what decides it
    if (rest) {
      text.push(rest);
      yield rest;
    }
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
