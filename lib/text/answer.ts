import { StopStrings } from './stop-strings.js';
import { StreamDecoder } from './stream-decoder.js';
import type { Tokenizer } from './tokenizer.js';

/** Turns the tokens of an answer into text, and knows where it ends. */
export class Answer {
  readonly #stream: StreamDecoder | undefined;
  readonly #stops: StopStrings;
  readonly #eosTokenIds: ReadonlySet<number>;
  readonly #maxTokens: number;
  #tokens = 0;
  #finishReason: 'stop' | 'length' | undefined;

  constructor(
    tokenizer: Tokenizer | undefined,
    { stop, eosTokenIds, maxTokens }: { stop: readonly string[]; eosTokenIds: ReadonlySet<number>; maxTokens: number },
  ) {
    this.#stream = tokenizer ? new StreamDecoder(tokenizer) : undefined;
    this.#stops = new StopStrings(stop);
    this.#eosTokenIds = eosTokenIds;
    this.#maxTokens = maxTokens;
  }

  /** 'stop': an end-of-text token or a stop string; 'length': no more tokens are wanted; undefined: it goes on. */
  get finishReason(): 'stop' | 'length' | undefined {
    return this.#finishReason;
  }

  /**
   * Takes the next token and gives the text that is certain now; with the last token, all that is left. `whole` says that
   * nothing may follow it.
   */
  push(id: number, whole = false): string {
    this.#tokens++;
    if (this.#eosTokenIds.has(id)) {
      this.#finishReason = 'stop';
      return this.#rest();
    }
    const piece = this.#stops.push(this.#stream ? this.#stream.push(id) : `${id} `);
    if (this.#stops.stopped) {
      this.#finishReason = 'stop';
      return piece;
    }
    if (!whole && this.#tokens < this.#maxTokens) return piece;
    this.#finishReason = whole ? 'stop' : 'length';
    return piece + this.#rest();
  }

  /** The last characters may be what completes a stop string. */
  #rest(): string {
    const rest = this.#stops.push(this.#stream?.flush() ?? '') + this.#stops.flush();
    if (this.#stops.stopped) this.#finishReason = 'stop';
    return rest;
  }
}
