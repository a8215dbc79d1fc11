import { SpkvError } from './errors.js';
import type { Model } from './model/model.js';
import type { Sequence } from './ops.js';

/**
 * A text that grows turn by turn, and the part of it that the cache has read. Prompts that continue the text
 * cost only their new tokens; a prompt that departs from it is read again from the start, since what was pruned
 * cannot be brought back.
 */
export class Session implements AsyncDisposable {
  readonly model: Model;
  readonly threshold: number;
  #sequence: Sequence | undefined;
  /** The tokens that the sequence has been given, of which it has read as many as its length says. */
  #given: number[] = [];
  #taken = false;

  constructor(model: Model, threshold: number = model.threshold) {
    this.model = model;
    this.threshold = threshold;
  }

  /** The sequence in the cache; undefined before the first prompt. */
  get sequence(): Sequence | undefined {
    return this.#sequence;
  }

  /**
   * @internal Takes the session for one generation, until the result is disposed: two at a time would write into
   * one sequence.
   */
  take(): Disposable {
    if (this.#taken) throw new SpkvError('INVALID_ARGUMENT', 'The session is in use: expected one generation at a time');
    this.#taken = true;
    return {
      [Symbol.dispose]: () => {
        this.#taken = false;
      },
    };
  }

  /**
   * Makes the cache hold exactly `ids` without the last one, which the decoder reads first. Resolves with the
   * sequence and the number of tokens that had to be read.
   */
  async prepare(
    ids: readonly number[], options: { onProgress?: (done: number, total: number) => void; signal?: AbortSignal } = {},
  ): Promise<{ sequence: Sequence; fresh: number }> {
    const known = this.#sequence?.length ?? 0;
    const continues = known < ids.length && this.#given.every((id, i) => i >= known || id === ids[i]);
    if (!this.#sequence || !continues) {
      await this.reset();
      this.#sequence = await this.model.createSequence({ threshold: this.threshold });
    }
    const fresh = ids.slice(this.#sequence.length, -1);
    this.#given = ids.slice(0, -1);
    if (fresh.length > 0) await this.model.prefill(this.#sequence, fresh, options);
    return { sequence: this.#sequence, fresh: fresh.length };
  }

  /** Notes a token that a decoder is about to read into the sequence. */
  note(id: number): void {
    this.#given.push(id);
  }

  /** Forgets everything and gives the pages back. */
  async reset(): Promise<void> {
    this.#given = [];
    await this.#sequence?.dispose();
    this.#sequence = undefined;
  }

  async dispose(): Promise<void> {
    await this.reset();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.reset();
  }
}
