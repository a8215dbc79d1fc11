import { SpkvError } from '../../errors.js';
import { uniform } from '../../random.js';
import type { Tokenizer } from '../../text/tokenizer.js';
import type { Row, Rows } from './rows.js';

// Synthetic sequences that reward remembering: lines `# note amber-123 = 042913` are hidden in the first three
// quarters of a real text, and asked for again at its end, `# recall amber-123 = 042913`. Other text seldom has
// anything exact that is needed again thousands of tokens later.

const WORDS =
  'amber basil cedar delta ember fjord grove hazel ivory jade koala lemon maple noble ocean pearl quartz river sable tulip umber viola willow xenon yacht zephyr'.split(' ');
const NOTES = 6;
/** The share of the text in which notes are hidden. */
const HIDDEN = 0.75;

export interface NeedleRow extends Row {
  /** Where the values that are asked for lie among the targets. */
  values: { start: number; end: number }[];
}

/** Makes rows with needles out of rows of text. Row n depends on the rows, the seed and n alone. */
export class Needles {
  readonly #endsLine = new Map<number, boolean>();

  constructor(
    private readonly rows: Rows,
    private readonly tokenizer: Tokenizer,
    private readonly seed: number,
  ) {}

  async read(index: number): Promise<NeedleRow> {
    const next = uniform(Math.imul(this.seed + 0x5eed, 0x9e3779b1) ^ index);
    const length = this.rows.sequenceLength;
    const notes = Array.from({ length: NOTES }, () => ({ name: `${pick(WORDS, next)}-${between(100, 999, next)}`, value: digits(next) }));
    const hidden = notes.map(({ name, value }) => this.#encode(`# note ${name} = ${value}\n`));
    const order = notes.map((note) => ({ note, key: next() })).sort((a, b) => a.key - b.key);
    const questions = order.map(({ note: { name, value } }) => ({ question: this.#encode(`# recall ${name} =`), answer: this.#encode(` ${value}`) }));
    const newline = this.#encode('\n');
    const tail = [...newline, ...questions.flatMap(({ question, answer }) => [...question, ...answer, ...newline])];
    const room = length + 1 - tail.length - hidden.reduce((sum, note) => sum + note.length, 0);
    if (room < 0) throw new SpkvError('INVALID_ARGUMENT', `Expected a sequence length of at least ${length - room} for needles but received ${length}`);
    const text = await this.rows.read(Math.floor(next() * this.rows.perPass));
    const ids = new Int32Array(length + 1);
    ids.set(tail, this.#hide(hidden, text.ids.subarray(0, room), ids, next));
    return { ids: ids.subarray(0, length), targets: ids.slice(1), starts: [0], values: places(questions, length - tail.length, newline.length) };
  }

  /** Writes the text to `out`, with the notes between lines of its first part; gives the tokens written. */
  #hide(notes: readonly number[][], text: Int32Array, out: Int32Array, next: () => number): number {
    const limit = Math.floor(text.length * HIDDEN);
    const cuts = notes.map(() => this.#lineStart(text, Math.floor(next() * (limit + 1)))).sort((a, b) => a - b);
    let at = 0;
    let last = 0;
    const put = (ids: ArrayLike<number>) => {
      out.set(ids, at);
      at += ids.length;
    };
    for (const [n, cut] of cuts.entries()) {
      put(text.subarray(last, cut));
      put(notes[n]!);
      last = cut;
    }
    put(text.subarray(last));
    return at;
  }

  /** The beginning of the line that holds a place. */
  #lineStart(text: Int32Array, place: number): number {
    let at = place;
    while (at > 0 && !this.#isLineEnd(text[at - 1]!)) at--;
    return at;
  }

  #isLineEnd(id: number): boolean {
    let ends = this.#endsLine.get(id);
    if (ends === undefined) {
      ends = this.tokenizer.decode([id]).endsWith('\n');
      this.#endsLine.set(id, ends);
    }
    return ends;
  }

  #encode(text: string): number[] {
    return this.tokenizer.encode(text, { addSpecialTokens: false });
  }
}

/** Where the answers lie among the targets, which begin one token after the ids. */
function places(
  questions: readonly { question: number[]; answer: number[] }[], start: number, newline: number,
): { start: number; end: number }[] {
  const found: { start: number; end: number }[] = [];
  let at = start + newline;
  for (const { question, answer } of questions) {
    at += question.length;
    found.push({ start: at, end: at + answer.length });
    at += answer.length + newline;
  }
  return found;
}

function pick<T>(list: readonly T[], next: () => number): T {
  return list[Math.floor(next() * list.length)]!;
}

function between(low: number, high: number, next: () => number): number {
  return low + Math.floor(next() * (high - low + 1));
}

function digits(next: () => number): string {
  return String(Math.floor(next() * 1e6)).padStart(6, '0');
}
