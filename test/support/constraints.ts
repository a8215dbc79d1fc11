// Constraints without a model: vocabularies, random texts, and a slow reading of grammars that shares nothing with lib/
// but the form of their patterns.
import type { Automaton } from '../../lib/constrain/automaton.js';
import { Machine, type Position } from '../../lib/constrain/machine.js';
import { Masks, type Prepared, type TokenSet, writeBits } from '../../lib/constrain/masks.js';
import { type Grammar, type Pattern, repeat, sequence } from '../../lib/constrain/patterns.js';
import { spell, type Vocabulary } from '../../lib/constrain/vocabulary.js';

/** Tokens of more than one byte: of JSON, of English, and parts of characters. */
const PIECES = [
  '":', '",', '","', '"}', '"},{"', '": "', '": ', '{"', '[{"', '{}', '[]', '}]', ']}', '}}', '], "', ', ', ',\n', '{\n  "', '\n    ', '\n  }', '  ',
  'true', 'false', 'null', 'tr', 'ue', '12', '-1', '0.5', '.5', 'e+', '10', '100', '00', 'name', 'value', 'a"', 'b": ', '\\n', '\\u', '\\"', '"\\', 'u00', 'hello',
  'ab', 'abc', 'ba', ' the', '2024-', '-01', 'T', ':00', 'Z"', '€', 'é"', 'ß', '日本',
];
const HALVES = [[0xc3], [0xe2, 0x82], [0xa9, 0x22], [0x82, 0xac], [0xf0, 0x9f], [0x98, 0x80], [0x22, 0xc3], [0xac, 0x22, 0x2c]];

/** All single bytes, the pieces above, and the token that ends a text; two tokens are the same. */
export const END = 256 + PIECES.length + HALVES.length + 1;

export function testVocabulary(): { vocabulary: Vocabulary; tokens: (Uint8Array | undefined)[] } {
  const tokens: (Uint8Array | undefined)[] = [
    ...Array.from({ length: 256 }, (_, byte) => Uint8Array.of(byte)),
    ...PIECES.map((text) => Uint8Array.from(Buffer.from(text))),
    ...HALVES.map((bytes) => Uint8Array.from(bytes)),
    Uint8Array.from(Buffer.from('ab')),
    undefined,
  ];
  const within = spell(tokens, tokens.length);
  return { vocabulary: { size: tokens.length, within, first: within }, tokens };
}

export function masksOf(automaton: Automaton, limit = 1 << 24, prepared?: Prepared): Masks {
  return new Masks(automaton, testVocabulary().vocabulary, [END], limit, prepared);
}

/** The ids of a set. */
export function idsOf(set: TokenSet, size: number): number[] {
  const row = new Int32Array(Math.ceil(size / 32)).fill(-1);
  writeBits(row, set);
  return Array.from({ length: size }, (_, id) => id).filter((id) => (row[id >> 5]! >> (id & 31)) & 1);
}

/** Draws tokens that are allowed, each as likely, until the text ends or there are `most`. `onStep` sees what was allowed. */
export function randomText(
  masks: Masks, tokens: readonly (Uint8Array | undefined)[], uniform: () => number, most: number, onStep?: (allowed: number[], bytes: readonly number[]) => void,
): { text: string; complete: boolean } {
  const bytes: number[] = [];
  let place = masks.start;
  for (let count = 0; ; count++) {
    const ended = place.accepting && place.ways.length === 0;
    if (ended || count === most) return { text: Buffer.from(bytes).toString(), complete: ended };
    const allowed = idsOf(masks.allowed(place, count === 0), tokens.length);
    onStep?.(allowed, bytes);
    if (allowed.length === 0) throw new Error(`Nothing is allowed after ${JSON.stringify(Buffer.from(bytes).toString())}`);
    const id = allowed[Math.floor(uniform() * allowed.length)]!;
    if (id === END) return { text: Buffer.from(bytes).toString(), complete: true };
    bytes.push(...tokens[id]!);
    place = masks.next(place, id, count === 0)!;
  }
}

/** Whether a text fits, byte by byte. */
export function fits(automaton: Automaton, text: string): boolean {
  const machine = new Machine(automaton);
  let at: Position | null = machine.start;
  for (const byte of Buffer.from(text)) if (at) at = machine.step(at, byte);
  return at?.accepting === true;
}

/**
 * Reads texts by derivatives of patterns (Brzozowski, J. ACM 1964; Antimirov, TCS 1996): what is left of the text to be
 * expected is a list of patterns, in as many ways as there are. Only for grammars all of whose patterns can be met, without
 * `both`.
 */
export class Reference {
  readonly #grammar: Grammar;

  constructor(grammar: Grammar) {
    this.#grammar = grammar;
  }

  get start(): Pattern[] {
    return [this.#grammar[0]!];
  }

  read(ways: readonly Pattern[], bytes: ArrayLike<number>): Pattern[] {
    let left = [...ways];
    for (const byte of Array.from(bytes)) left = left.flatMap((pattern) => this.#derive(pattern, byte));
    return left;
  }

  mayEnd(ways: readonly Pattern[]): boolean {
    return ways.some((pattern) => this.#empty(pattern));
  }

  #derive(pattern: Pattern, byte: number): Pattern[] {
    switch (pattern.kind) {
      case 'bytes':
        return pattern.ranges.some(([low, high]) => low <= byte && byte <= high) ? [sequence()] : [];
      case 'sequence': {
        const all: Pattern[] = [];
        for (const [i, part] of pattern.parts.entries()) {
          const rest = pattern.parts.slice(i + 1);
          all.push(...this.#derive(part, byte).map((left) => sequence(left, ...rest)));
          if (!this.#empty(part)) break;
        }
        return all;
      }
      case 'choice':
        return pattern.options.flatMap((each) => this.#derive(each, byte));
      case 'repeat': {
        if (pattern.max === 0) return [];
        const rest = repeat(pattern.part, this.#empty(pattern.part) ? 0 : Math.max(0, pattern.min - 1), pattern.max - 1);
        return this.#derive(pattern.part, byte).map((left) => sequence(left, rest));
      }
      case 'list': {
        const all: Pattern[] = [];
        for (const [i, { part, optional }] of pattern.members.entries()) {
          const rest = pattern.members.slice(i + 1).map((member): Pattern => {
            const more = sequence(pattern.separator, member.part);
            return member.optional ? repeat(more, 0, 1) : more;
          });
          all.push(...this.#derive(part, byte).map((left) => sequence(left, ...rest)));
          if (!optional) break;
        }
        return all;
      }
      case 'call':
        return this.#derive(this.#grammar[pattern.rule]!, byte);
      case 'both':
        throw new Error('both is not read');
    }
  }

  #empty(pattern: Pattern): boolean {
    switch (pattern.kind) {
      case 'bytes':
        return false;
      case 'sequence':
        return pattern.parts.every((part) => this.#empty(part));
      case 'choice':
        return pattern.options.some((part) => this.#empty(part));
      case 'repeat':
        return pattern.min === 0 || this.#empty(pattern.part);
      case 'list':
        return pattern.members.every(({ part, optional }) => optional || this.#empty(part));
      case 'call':
        return this.#empty(this.#grammar[pattern.rule]!);
      case 'both':
        throw new Error('both is not read');
    }
  }
}
