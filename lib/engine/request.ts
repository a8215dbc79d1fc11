import { SpkvError } from '../errors.js';
import type { CacheReport } from '../report.js';
import type { TextModel } from '../text-model.js';
import { Choice } from './choice.js';
import { EventBuffer, type TextEvent, type TextToken } from './events.js';
import type { KeptToken } from './kept.js';
import type { ResolvedRequest } from './options.js';

export interface RequestResult {
  /** The n texts. */
  choices: {
    text: string;
    tokens: TextToken[];
    finishReason: 'stop' | 'length';
    /** What it held in the cache at its end; texts of one prompt share pages of it. */
    cache: CacheReport;
    /** Where the request asks for it: what is kept of each token of prompt and text but the last, which is not read. */
    kept?: KeptToken[];
  }[];
  usage: {
    promptTokens: number;
    /** Prompt tokens whose pairs were in the cache from an earlier request. */
    cachedTokens: number;
    completionTokens: number;
  };
  timing: RequestTiming;
}

/** Milliseconds since the request came. */
export interface RequestTiming {
  /** Until its prompt was begun. */
  begunAfter: number | undefined;
  /** Until its first token. */
  firstTokenAfter: number | undefined;
  endedAfter: number;
}

/** What a request tells the engine. */
export interface RequestHooks {
  /** Something has changed that may let the engine go on. */
  wake(): void;
  /** The request has ended, well or badly. */
  ended(request: Request): void;
}

/**
 * A prompt that is answered with n texts: iterate over what is written, or await `result` or `text()`. Leaving the
 * loop cancels it.
 */
export class Request implements AsyncIterable<TextEvent> {
  /** Resolves when all texts have ended. */
  readonly result: Promise<RequestResult>;
  /** @internal */
  readonly options: ResolvedRequest;
  /** @internal The n texts. */
  readonly choices: readonly Choice[];
  /** @internal Numbers requests in the order in which they came. */
  readonly number: number;
  /** @internal When it came, in milliseconds of performance.now(). */
  readonly arrival: number;
  /** @internal Prompt tokens that were there already. */
  cachedTokens = 0;
  readonly #events: EventBuffer;
  readonly #hooks: RequestHooks;
  #finish!: (result: RequestResult) => void;
  #fail!: (reason: unknown) => void;
  #begun: number | undefined;
  #firstToken: number | undefined;
  #ended: { at: number; error?: unknown } | undefined;

  /** @internal Use {@link Engine.generate}. */
  constructor(model: TextModel, options: ResolvedRequest, number: number, hooks: RequestHooks) {
    this.options = options;
    this.number = number;
    this.arrival = performance.now();
    this.#hooks = hooks;
    this.choices = Array.from({ length: options.n }, (_, index) => new Choice(this, index, model.tokenizer));
    this.#events = new EventBuffer(() => hooks.wake(), () => this.cancel(new SpkvError('ABORTED', 'The reader has left')));
    this.result = new Promise<RequestResult>((onFinish, onFail) => {
      this.#finish = onFinish;
      this.#fail = onFail;
    });
    this.result.catch(() => {}); // whoever iterates gets the error there
    const { signal } = options;
    if (!signal) return;
    const abort = () => this.cancel(signal.reason);
    if (signal.aborted) abort();
    else signal.addEventListener('abort', abort, { once: true });
    const unlisten = () => signal.removeEventListener('abort', abort);
    this.result.then(unlisten, unlisten);
  }

  [Symbol.asyncIterator](): AsyncIterator<TextEvent, void, void> {
    return this.#events;
  }

  /** Reads to the end and resolves with the first text. */
  async text(): Promise<string> {
    for await (const _ of this);
    return (await this.result).choices[0]!.text;
  }

  /** Ends the request with an error: its reader gets it at once, and its memory is free before the next step. */
  cancel(reason: unknown = new SpkvError('ABORTED', 'The request was cancelled')): void {
    this.fail(reason);
    this.#hooks.wake();
  }

  /** @internal */
  get failed(): boolean {
    return this.#ended !== undefined && 'error' in this.#ended;
  }

  /** @internal With which it has failed. */
  get error(): unknown {
    return this.#ended?.error;
  }

  /** @internal */
  get ended(): boolean {
    return this.#ended !== undefined;
  }

  /** @internal Tokens that its reader has still to take. */
  get unread(): number {
    return this.#events.unread;
  }

  /** @internal When its reader has last taken something, in milliseconds of performance.now(). */
  get lastRead(): number {
    return this.#events.lastRead;
  }

  /** @internal When it must have ended, in milliseconds of performance.now(). */
  get expires(): number {
    return this.arrival + this.options.deadline;
  }

  get timing(): RequestTiming {
    const since = (time: number | undefined) => (time === undefined ? undefined : time - this.arrival);
    return { begunAfter: since(this.#begun), firstTokenAfter: since(this.#firstToken), endedAfter: (this.#ended?.at ?? performance.now()) - this.arrival };
  }

  /** @internal Whether it has had a place. */
  get begun(): boolean {
    return this.#begun !== undefined;
  }

  /** @internal Its prompt is about to be read. */
  begin(cachedTokens: number): void {
    if (this.#begun !== undefined) return;
    this.#begun = performance.now();
    this.cachedTokens = cachedTokens;
  }

  /** @internal */
  emit(event: TextEvent | undefined): void {
    if (!event || this.#ended) return;
    if (event.tokens.length > 0) this.#firstToken ??= performance.now();
    this.#events.push(event);
    if (event.finishReason !== undefined && this.choices.every(({ cache }) => cache)) this.#end();
  }

  /** @internal Wakes its reader, if that waits for what there is. */
  deliver(): void {
    this.#events.deliver();
  }

  /** @internal */
  fail(error: unknown): void {
    if (this.#ended) return;
    this.#ended = { at: performance.now(), error };
    this.#events.end({ error });
    this.#fail(error);
    this.#hooks.ended(this);
  }

  #end(): void {
    this.#ended = { at: performance.now() };
    this.#events.end();
    const completionTokens = this.choices.reduce((sum, { tokens }) => sum + tokens.length, 0);
    this.#finish({
      choices: this.choices.map(({ text, tokens, finishReason, cache, kept }) => ({
        text, tokens, finishReason: finishReason!, cache: cache!, ...(kept && { kept }),
      })),
      usage: { promptTokens: this.options.ids.length, cachedTokens: this.cachedTokens, completionTokens },
      timing: this.timing,
    });
    this.#hooks.ended(this);
  }
}
