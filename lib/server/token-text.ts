import type { TextModel } from '../text-model.js';
import type { Tokenizer } from '../text/tokenizer.js';
import { bytesOf } from '../text/token-bytes.js';

export interface TokenText {
  /** As it stands within a text; bytes that are no whole character are U+FFFD. */
  text: string;
  /** In UTF-8; null for special tokens, which stand for no text. */
  bytes: number[] | null;
}

/** What single tokens stand for, as log-probabilities name them. */
export class TokenTexts {
  readonly #tokenizer: Tokenizer | undefined;
  readonly #known = new Map<number, TokenText>();

  constructor({ tokenizer }: TextModel) {
    this.#tokenizer = tokenizer;
  }

  of(id: number): TokenText {
    let known = this.#known.get(id);
    if (!known) this.#known.set(id, (known = this.#find(id)));
    return known;
  }

  /** Its text where that names it; else its bytes, as OpenAI writes them. */
  name(id: number): string {
    const { text, bytes } = this.of(id);
    if (!bytes || Buffer.from(text).equals(Uint8Array.from(bytes))) return text;
    return `bytes:${bytes.map((byte) => `\\x${byte.toString(16).padStart(2, '0')}`).join('')}`;
  }

  #find(id: number): TokenText {
    // Without a tokenizer the text of an answer is its token ids.
    if (!this.#tokenizer) return { text: `${id} `, bytes: [...Buffer.from(`${id} `)] };
    const bytes = bytesOf(this.#tokenizer, id);
    if (!bytes) return { text: this.#tokenizer.token(id) ?? '', bytes: null };
    return { text: Buffer.from(bytes).toString(), bytes: [...bytes] };
  }
}
