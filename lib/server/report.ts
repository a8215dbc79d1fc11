// What an answer tells of its making, where the field `report` asks for it.
import type { KeptToken } from '../engine/kept.js';
import type { RequestResult } from '../engine/request.js';
import type { CacheReport } from '../report.js';
import { StreamDecoder } from '../text/stream-decoder.js';
import type { TextModel } from '../text-model.js';
import type { Prompt } from './answer.js';

/** 'summary': times, and what each text holds in the cache; 'tokens': also which layers and heads keep each token. */
export const REPORTS = ['summary', 'tokens'] as const;
export type ReportKind = (typeof REPORTS)[number];

/** What is added to the usage of an answer. */
export function reportOf(results: readonly RequestResult[]): { timing: object; cache: object[] } {
  const timings = results.map(({ timing }) => timing);
  return {
    // Of the whole answer, where it has several prompts.
    timing: {
      begun_after: Math.min(...timings.map(({ begunAfter }) => begunAfter!)),
      first_token_after: Math.min(...timings.map(({ firstTokenAfter }) => firstTokenAfter!)),
      ended_after: Math.max(...timings.map(({ endedAfter }) => endedAfter)),
    },
    cache: results.flatMap(({ choices }) => choices.map(({ cache }) => cacheFields(cache))),
  };
}

function cacheFields({ length, threshold, window, density, densities, pairs, densePairs, bytes, denseBytes }: CacheReport): object {
  return { length, threshold, window, density, densities, pairs, dense_pairs: densePairs, bytes, dense_bytes: denseBytes };
}

/** A token in the way of the API: the text that it makes certain, or the name of a special one; who keeps it. */
export type KeptFields = ({ text: string } | { special: string }) & { heads: string; written?: true };

/** A text on its way to the reader. */
interface Progress {
  stream: StreamDecoder | undefined;
  /** Of the next token. */
  position: number;
}

/** Writes what is kept of the tokens of an answer's texts, each in order. `index` counts the texts of all prompts. */
export class KeptTexts {
  readonly #tokenizer: TextModel['tokenizer'];
  readonly #prompts: readonly Prompt[];
  readonly #n: number;
  readonly #texts = new Map<number, Progress>();

  constructor({ tokenizer }: TextModel, prompts: readonly Prompt[], n: number) {
    this.#tokenizer = tokenizer;
    this.#prompts = prompts;
    this.#n = n;
  }

  /** The next tokens of a text. The prompt's are left to the first of its texts. */
  next(index: number, tokens: readonly KeptToken[]): KeptFields[] {
    let text = this.#texts.get(index);
    if (!text) this.#texts.set(index, (text = this.#begin(index)));
    const { length } = this.#prompt(index);
    return tokens.map(({ id, kept }) => ({ ...this.#name(text, id), heads: hex(kept), ...(text.position++ >= length && { written: true }) }));
  }

  /** The tokens of a text that has ended. */
  all(index: number, tokens: readonly KeptToken[]): KeptFields[] {
    return this.next(index, tokens.slice(this.#begin(index).position));
  }

  #begin(index: number): Progress {
    const stream = this.#tokenizer && new StreamDecoder(this.#tokenizer);
    const read = index % this.#n === 0 ? [] : this.#prompt(index).slice(0, -1);
    for (const id of read) stream?.push(id);
    return { stream, position: read.length };
  }

  #prompt(index: number): readonly number[] {
    return this.#prompts[Math.floor(index / this.#n)]!.ids;
  }

  #name({ stream }: Progress, id: number): { text: string } | { special: string } {
    if (!stream) return { text: `${id} ` };
    return this.#tokenizer!.isSpecial(id) ? { special: this.#tokenizer!.token(id)! } : { text: stream.push(id) };
  }
}

/** Four heads a digit, the first one in its highest bit. */
function hex(kept: Uint8Array): string {
  let digits = '';
  for (let i = 0; i < kept.length; i += 4) {
    digits += (8 * kept[i]! + 4 * (kept[i + 1] ?? 0) + 2 * (kept[i + 2] ?? 0) + (kept[i + 3] ?? 0)).toString(16);
  }
  return digits;
}
