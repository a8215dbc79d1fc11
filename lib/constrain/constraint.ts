import { SpkvError } from '../errors.js';
import type { Tokenizer } from '../text/tokenizer.js';
import type { Masks, Place, TokenSet } from './masks.js';

/**
 * What texts shall be like, made ready for the tokens of a model by {@link TextModel.constrain}. Any number of texts
 * share it.
 */
export class Constraint {
  /** @internal */
  readonly masks: Masks;
  /** @internal Whose tokens it knows. */
  readonly tokenizer: Tokenizer;
  readonly #ends: ReadonlySet<number>;

  /** @internal */
  constructor(masks: Masks, tokenizer: Tokenizer, ends: ReadonlySet<number>) {
    this.masks = masks;
    this.tokenizer = tokenizer;
    this.#ends = ends;
  }

  /** A text that has not begun. */
  begin(): Progress {
    return new Progress(this.masks, this.#ends);
  }
}

/** How far a text has come. */
export class Progress {
  readonly #masks: Masks;
  readonly #ends: ReadonlySet<number>;
  #place: Place;
  #first = true;
  #ended = false;

  /** @internal Use {@link Constraint.begin}. */
  constructor(masks: Masks, ends: ReadonlySet<number>) {
    this.#masks = masks;
    this.#ends = ends;
    this.#place = masks.start;
  }

  /** Whether the text is whole, and nothing more may follow. */
  get complete(): boolean {
    return this.#ended || (this.#place.accepting && this.#place.ways.length === 0);
  }

  /**
   * @internal The tokens that may come next; undefined where the text has ended. The same set is mostly the same object.
   * Errors: UNSUPPORTED where the vocabulary cannot go on.
   */
  allowed(): TokenSet | undefined {
    if (this.complete) return undefined;
    const tokens = this.#masks.allowed(this.#place, this.#first);
    if (tokens.ids?.length === 0) throw new SpkvError('UNSUPPORTED', 'The vocabulary of the model has no token with which the text could go on as the constraint asks');
    return tokens;
  }

  /** Takes the next token. Once the text has ended others mean nothing. Errors: INVALID_ARGUMENT for one that does not fit; UNSUPPORTED. */
  accept(id: number): void {
    if (this.complete) return;
    if (this.#ends.has(id)) {
      if (!this.#place.accepting) throw unfit(id);
      this.#ended = true;
      return;
    }
    const next = this.#masks.next(this.#place, id, this.#first);
    if (!next) throw unfit(id);
    this.#place = next;
    this.#first = false;
  }
}

function unfit(id: number): SpkvError {
  return new SpkvError('INVALID_ARGUMENT', `Expected a token that fits the constraint for id but received ${id}`);
}
