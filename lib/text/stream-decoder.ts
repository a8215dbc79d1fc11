import { BYTES } from './byte-level.js';
import { type MakeStep, planSteps, type Step } from './decoder-steps.js';
import type { Tokenizer } from './tokenizer.js';
import { Utf8Stream } from './utf8.js';

/** Turns the tokens that are not left out into pieces of text. */
interface Pieces {
  push(token: string, id: number): string;
  flush(): string;
}

/**
 * Decodes token by token. The pieces put together are exactly what {@link Tokenizer.decode} makes of all ids,
 * and a piece never ends inside a character. Each token costs the same, however long the text. For byte-level
 * and sentencepiece tokenizers at most 3 bytes are held back; for the others, which language models hardly use,
 * a few tokens and later a sixteenth of the text.
 */
export class StreamDecoder {
  readonly #tokenizer: Tokenizer;
  #pieces: Pieces;

  constructor(tokenizer: Tokenizer) {
    this.#tokenizer = tokenizer;
    this.#pieces = createPieces(tokenizer);
  }

  /** Takes the next token and returns the text that is certain now, often '' or more than one token's. */
  push(id: number): string {
    const token = this.#tokenizer.spoken(id);
    return token === undefined ? '' : this.#pieces.push(token, id);
  }

  /** The text held back when no more tokens will come. The next token then begins a new text. */
  flush(): string {
    const rest = this.#pieces.flush();
    this.#pieces = createPieces(this.#tokenizer);
    return rest;
  }
}

function createPieces(tokenizer: Tokenizer): Pieces {
  const { decoder, wordSuffix } = tokenizer;
  if (decoder === null) return new SpacedPieces();
  if (wordSuffix !== '') return new RepeatedPieces(tokenizer);
  if (decoder.type === 'ByteLevel') return new ByteLevelPieces(tokenizer);
  const steps = planSteps(decoder);
  return steps ? new SteppedPieces(steps) : new RepeatedPieces(tokenizer);
}

/** Without a decoder the tokens are words, with spaces between them. */
class SpacedPieces implements Pieces {
  #begun = false;

  push(token: string): string {
    const piece = this.#begun ? ` ${token}` : token;
    this.#begun = true;
    return piece;
  }

  flush(): string {
    return '';
  }
}

/** Every character of a token stands for a byte, but added tokens are written as they are. */
class ByteLevelPieces implements Pieces {
  readonly #tokenizer: Tokenizer;
  readonly #bytes = new Utf8Stream();

  constructor(tokenizer: Tokenizer) {
    this.#tokenizer = tokenizer;
  }

  push(token: string): string {
    if (this.#tokenizer.isAdded(token)) return this.#bytes.flush() + token;
    // Like the library: a character that stands for no byte becomes the byte 0.
    return this.#bytes.push(Array.from(token, (char) => BYTES.get(char) ?? 0));
  }

  flush(): string {
    return this.#bytes.flush();
  }
}

/** The steps of a decoder, one after another. */
class SteppedPieces implements Pieces {
  readonly #first: Step;
  #text = '';

  constructor(steps: readonly MakeStep[]) {
    const last: Step = {
      write: (text) => {
        this.#text += text;
      },
      end: () => {},
    };
    this.#first = steps.reduceRight((next, make) => make(next), last);
  }

  push(token: string): string {
    this.#first.write(token, true);
    return this.#take();
  }

  flush(): string {
    this.#first.end();
    return this.#take();
  }

  #take(): string {
    const text = this.#text;
    this.#text = '';
    return text;
  }
}

/**
 * For decoders of other kinds: decodes all tokens again each time their number has grown by a sixteenth, and
 * lets through what two decodings have in common. That is exact where the text of a token depends on no more
 * than the {@link LOOKAHEAD} tokens after it.
 */
class RepeatedPieces implements Pieces {
  readonly #tokenizer: Tokenizer;
  readonly #ids: number[] = [];
  #due = LOOKAHEAD;
  #previous = '';
  #given = 0;

  constructor(tokenizer: Tokenizer) {
    this.#tokenizer = tokenizer;
  }

  push(_token: string, id: number): string {
    const count = this.#ids.push(id);
    if (count < this.#due) return '';
    this.#due = count + Math.max(LOOKAHEAD, count >> 4);
    const text = this.#tokenizer.decode(this.#ids);
    const certain = commonLength(this.#previous, text);
    this.#previous = text;
    return this.#give(text, certain);
  }

  flush(): string {
    const text = this.#tokenizer.decode(this.#ids);
    return this.#give(text, text.length);
  }

  #give(text: string, end: number): string {
    const piece = text.slice(this.#given, end);
    this.#given = Math.max(this.#given, end);
    return piece;
  }
}

const LOOKAHEAD = 8;

/** The length of the longest common beginning that does not end inside a character. */
function commonLength(a: string, b: string): number {
  let length = 0;
  while (length < a.length && a[length] === b[length]) length++;
  const last = a.charCodeAt(length - 1);
  return last >= 0xd800 && last < 0xdc00 ? length - 1 : length;
}
