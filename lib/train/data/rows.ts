import { SpkvError } from '../../errors.js';
import { permutation, uniform } from '../../random.js';
import type { Span } from './split.js';
import type { TokenFile } from './token-file.js';

/** The target of a token that has nothing to predict. */
export const NO_TARGET = -1;

/** One sequence of a batch. */
export interface Row {
  ids: Int32Array;
  /** The token after each, or NO_TARGET where a document ends. */
  targets: Int32Array;
  /** Where the parts begin that do not see each other: 0 first. */
  starts: number[];
}

export interface RowOptions {
  sequenceLength: number;
  /** Whether documents in a row are kept apart: no attention from one to the other, no prediction across. */
  boundaries: boolean;
  seed: number;
  /** False gives the documents in their own order, again and again: for validation. */
  shuffle: boolean;
}

/** The documents of one pass in their order, and the order of the rows that they fill when put end to end. */
interface Pass {
  documents: Uint32Array;
  /** Tokens before each document in this pass, and at last all of them. */
  before: Float64Array;
  rows: Uint32Array | undefined;
}

/**
 * An endless supply of rows of one length: in every pass all documents are put end to end in a new order and cut
 * into rows, whose order is shuffled too. Any row can be asked for at any time; what row n holds depends on the
 * data, the options and n alone. Tokens past the last whole row of a pass are left out of it.
 */
export class Rows {
  /** Rows of one pass over the data. */
  readonly perPass: number;
  readonly sequenceLength: number;
  readonly #passes = new Map<number, Pass>();

  constructor(
    private readonly tokens: TokenFile,
    private readonly spans: readonly Span[],
    private readonly options: RowOptions,
  ) {
    const total = spans.reduce((sum, { start, end }) => sum + end - start, 0);
    this.sequenceLength = options.sequenceLength;
    // The last token of a row is predicted too, so that one more is needed.
    this.perPass = Math.floor((total - 1) / this.sequenceLength);
    if (this.perPass < 1) {
      throw new SpkvError('INVALID_ARGUMENT', `Expected at least ${this.sequenceLength + 1} tokens of data for a sequence length of ${this.sequenceLength} but there are ${total}: give more data, or lower sequenceLength`);
    }
  }

  async read(index: number): Promise<Row> {
    const { sequenceLength: length, boundaries } = this.options;
    const pass = this.#pass(Math.floor(index / this.perPass));
    const row = pass.rows?.[index % this.perPass] ?? index % this.perPass;
    const ids = new Int32Array(length + 1);
    const starts = await this.#gather(pass, row * length, ids);
    const targets = ids.slice(1);
    if (!boundaries) return { ids: ids.subarray(0, length), targets, starts: [0] };
    for (const start of starts) if (start > 0) targets[start - 1] = NO_TARGET;
    return { ids: ids.subarray(0, length), targets, starts: starts.filter((start) => start < length) };
  }

  /** Fills `out` with the tokens of a pass from `from` on; gives the places where documents begin, 0 always. */
  async #gather({ documents, before }: Pass, from: number, out: Int32Array): Promise<number[]> {
    const starts: number[] = [];
    const reads: Promise<void>[] = [];
    for (let at = 0, d = documentAt(before, from); at < out.length; d++) {
      const { start, end } = this.spans[documents[d]!]!;
      const skip = from + at - before[d]!;
      const count = Math.min(end - start - skip, out.length - at);
      reads.push(this.tokens.read(start + skip, count, out, at));
      starts.push(at);
      at += count;
    }
    await Promise.all(reads);
    return starts;
  }

  #pass(number: number): Pass {
    const known = this.#passes.get(number);
    if (known) return known;
    const { spans, options: { seed, shuffle } } = this;
    const next = uniform(Math.imul(seed + 1, 0x9e3779b1) ^ number);
    const documents = shuffle ? permutation(spans.length, next) : Uint32Array.from(spans, (_, d) => d);
    const before = new Float64Array(spans.length + 1);
    for (const [d, document] of documents.entries()) before[d + 1] = before[d]! + spans[document]!.end - spans[document]!.start;
    const pass = { documents, before, rows: shuffle ? permutation(this.perPass, next) : undefined };
    for (const old of this.#passes.keys()) if (old < number - 1) this.#passes.delete(old);
    this.#passes.set(number, pass);
    return pass;
  }
}

/** The document that holds a place: the last that begins at or before it. */
function documentAt(before: Float64Array, place: number): number {
  let low = 0;
  let high = before.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >>> 1;
    if (before[middle]! <= place) low = middle;
    else high = middle;
  }
  return low;
}
