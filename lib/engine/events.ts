import type { KeptToken } from './kept.js';
import type { TokenLogprobs } from './logprobs.js';

/** One token of a text. */
export interface TextToken extends Partial<TokenLogprobs> {
  id: number;
}

/** What has been written since the last event of the same text. */
export interface TextEvent {
  /** Which of the n texts. */
  index: number;
  /** Whole characters. It may be behind the tokens: characters that are not complete, or may begin a stop string, come later. */
  text: string;
  tokens: TextToken[];
  /** Set in the last event of a text: 'stop', an end-of-text token or a stop string; 'length', maxTokens or the model's positions. */
  finishReason: 'stop' | 'length' | undefined;
  /** Where the request asks for it: tokens that have been read since, those of the prompt first. */
  kept?: KeptToken[];
}

/**
 * What a request has written and nobody has read yet. Events of one text that wait become one, so however slow the
 * reader, this holds no more than the texts themselves. A reader that waits is woken by {@link deliver}, when there is
 * time for what it does then.
 */
export class EventBuffer implements AsyncIterator<TextEvent, void, void> {
  readonly #waiting: TextEvent[] = [];
  readonly #onRead: () => void;
  readonly #onLeave: () => void;
  readonly #wanted: { resolve: (result: IteratorResult<TextEvent, void>) => void; reject: (reason: unknown) => void }[] = [];
  #end: { error?: unknown } | undefined;
  #unread = 0;
  #begun = false;
  #lastRead = -Infinity;

  /** `onRead` is told of every event that is taken, `onLeave` when the reader will take no more. */
  constructor(onRead: () => void, onLeave: () => void) {
    this.#onRead = onRead;
    this.#onLeave = onLeave;
  }

  /** Tokens that a reader is behind: none as long as nobody has begun to read, or whoever reads waits for more. */
  get unread(): number {
    return this.#begun && this.#wanted.length === 0 ? this.#unread : 0;
  }

  /** When something was last asked for, in milliseconds of performance.now(). */
  get lastRead(): number {
    return this.#lastRead;
  }

  push(event: TextEvent): void {
    if (this.#end) return;
    this.#unread += event.tokens.length;
    const before = this.#waiting.findLast(({ index }) => index === event.index);
    if (!before) {
      this.#waiting.push(event);
      return;
    }
    before.text += event.text;
    before.tokens.push(...event.tokens);
    if (event.kept) (before.kept ??= []).push(...event.kept);
    before.finishReason = event.finishReason;
  }

  /** Gives readers that wait what has come for them. */
  deliver(): void {
    while (this.#wanted.length > 0 && this.#waiting.length > 0) {
      const value = this.#waiting.shift()!;
      this.#unread -= value.tokens.length;
      this.#wanted.shift()!.resolve({ value, done: false });
    }
  }

  /** No more events will come; with an error, the reader gets it after what waits. */
  end(error?: { error: unknown }): void {
    if (this.#end) return;
    this.deliver();
    this.#end = error ?? {};
    // Who waits has taken all that there was.
    for (const { resolve, reject } of this.#wanted.splice(0)) {
      if ('error' in this.#end) reject(this.#end.error);
      else resolve({ value: undefined, done: true });
      this.#end = {}; // as a generator throws once
    }
  }

  next(): Promise<IteratorResult<TextEvent, void>> {
    this.#begun = true;
    this.#lastRead = performance.now();
    this.deliver(); // who came first is served first
    const value = this.#waiting.shift();
    if (value) {
      this.#unread -= value.tokens.length;
      this.#onRead();
      return Promise.resolve({ value, done: false });
    }
    if (!this.#end) return new Promise((resolve, reject) => this.#wanted.push({ resolve, reject }));
    if (!('error' in this.#end)) return Promise.resolve({ value: undefined, done: true });
    const { error } = this.#end;
    this.#end = {};
    return Promise.reject(error);
  }

  return(): Promise<IteratorResult<TextEvent, void>> {
    this.#waiting.length = 0;
    this.#unread = 0;
    this.#onLeave();
    return Promise.resolve({ value: undefined, done: true });
  }
}
