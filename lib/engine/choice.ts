import type { Progress } from '../constrain/constraint.js';
import type { Sequence } from '../ops.js';
import type { CacheReport } from '../report.js';
import type { ResolvedSampling } from '../sampling-options.js';
import { Answer } from '../text/answer.js';
import type { Tokenizer } from '../text/tokenizer.js';
import type { TextEvent, TextToken } from './events.js';
import type { KeptToken } from './kept.js';
import type { TokenLogprobs } from './logprobs.js';
import type { Request } from './request.js';

/**
 * One text of a request: what the engine schedules. The cache has read some of its known tokens:
 *
 *   ids:  prompt 0 ........... P-1 | written P ......... K-1
 *   read: 0 .............. read-1 | next: ids[read]
 *
 * All of the prompt but its last token is read in pieces. From then on one token is read per step and one is drawn;
 * the one drawn after ids[K-1] is new. (After its state was given up for lack of room, tokens are read that are known
 * already, in the same way as the first time, so that the state comes back to the bit.)
 */
export class Choice {
  readonly request: Request;
  readonly index: number;
  readonly sampling: ResolvedSampling;
  /** Where it stands in the constraint, if there is one. */
  readonly progress: Progress | undefined;
  /** The tokens that are known. */
  readonly ids: number[];
  readonly tokens: TextToken[] = [];
  text = '';
  /** Of the tokens that were read, which layers and heads keep them; undefined if nobody asks. */
  readonly kept: KeptToken[] | undefined;
  /** What it held at its end. */
  cache: CacheReport | undefined;
  /** Its state in the cache; undefined while it waits. */
  sequence: Sequence | undefined;
  /** Its state outside of the cache, from when it had to make room. */
  saved: { bytes: Uint8Array; pages: number } | undefined;
  /** What it will take from the pool, as of when its sequence had `length` tokens: see {@link Sequence.forecast}. */
  forecast: { length: number; pages: Int32Array } | undefined;
  /** Whether the cache holds what it would if no earlier request had left anything there, to the bit. */
  exact = true;
  /** Whether it has no more forks to make of it: the first of n texts reads the prompt for all. */
  forked: boolean;
  readonly #answer: Answer;
  /** Elements of `kept` that the reader has been told. */
  #told = 0;

  constructor(request: Request, index: number, tokenizer: Tokenizer | undefined) {
    const { ids, sampling, constraint } = request.options;
    this.request = request;
    this.index = index;
    this.forked = index > 0 || request.options.n === 1;
    this.sampling = { ...sampling, seed: (sampling.seed + index) % (Number.MAX_SAFE_INTEGER + 1) };
    this.progress = constraint?.begin();
    this.ids = [...ids];
    this.kept = request.options.kept ? [] : undefined;
    this.#answer = new Answer(tokenizer, request.options);
  }

  /** Known tokens that the cache has read. */
  get read(): number {
    return this.sequence?.length ?? 0;
  }

  /** Prompt tokens to be read in pieces. */
  get unread(): number {
    return Math.max(0, this.request.options.ids.length - 1 - this.read);
  }

  /** Tokens that may still be read. */
  get left(): number {
    const { ids, maxTokens } = this.request.options;
    return ids.length - 1 + maxTokens - this.read;
  }

  /** Whether the token that is read next is the last one known, so that a new one is drawn after it. */
  get writing(): boolean {
    return this.read === this.ids.length - 1;
  }

  get finishReason(): 'stop' | 'length' | undefined {
    return this.#answer.finishReason;
  }

  /** Whether nothing is to be done for it any more. */
  get ended(): boolean {
    return this.request.ended || this.finishReason !== undefined;
  }

  /** Texts that begin as forks of this one when the prompt is read. */
  get siblings(): readonly Choice[] {
    return this.forked ? [] : this.request.choices.slice(1);
  }

  /** Adds the token that was drawn. Gives what its reader is to be told. Errors: UNSUPPORTED where a constraint becomes too ambiguous. */
  write(id: number, logprobs: TokenLogprobs | undefined): TextEvent {
    this.progress?.accept(id);
    const token = { id, ...logprobs };
    const text = this.#answer.push(id, this.progress?.complete);
    this.ids.push(id);
    this.tokens.push(token);
    this.text += text;
    return this.#event(text, [token]);
  }

  /** Takes down what is kept of the tokens from `start` on, as far as that is new: some are read more than once. */
  keep(start: number, kept: readonly Uint8Array[]): void {
    for (let at = this.kept!.length; at < start + kept.length; at++) this.kept!.push({ id: this.ids[at]!, kept: kept[at - start]! });
  }

  /** What there is to tell of the tokens read so far, if nothing is written yet. */
  reading(): TextEvent | undefined {
    return this.kept && this.#told < this.kept.length ? this.#event('', []) : undefined;
  }

  /** Takes over what another text of the request has read and told. */
  follow(other: Choice): void {
    this.exact = other.exact;
    if (!this.kept) return;
    this.kept.push(...other.kept!);
    this.#told = this.kept.length;
  }

  #event(text: string, tokens: TextToken[]): TextEvent {
    const event: TextEvent = { index: this.index, text, tokens, finishReason: this.finishReason };
    if (!this.kept) return event;
    const kept = this.kept.slice(this.#told);
    this.#told = this.kept.length;
    return { ...event, kept };
  }
}
