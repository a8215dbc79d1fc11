import type { Automaton } from './automaton.js';
import { equalStates } from './equal-states.js';
import { Machine, type Position } from './machine.js';
import type { Spelling, Vocabulary } from './vocabulary.js';

/** A set of tokens: their ids in rising order where they are few, else a bit for each token of the vocabulary. */
export type TokenSet = { readonly ids: Int32Array; readonly bits?: undefined } | { readonly bits: Int32Array; readonly ids?: undefined };

/** What one state allows, whatever calls are around it. */
export interface StateTokens {
  /** Tokens all of whose bytes lie within what the state's rule describes, or which have some more of it to come. */
  tokens: TokenSet;
  /** Nodes of the tree of tokens at which the rule may have ended: what is below them is for the caller to allow. */
  leaving: Int32Array;
}

/** What is known of an automaton and a vocabulary ahead of any text. */
export interface Prepared {
  /** See {@link equalStates}. */
  same: Int32Array;
  states: readonly (StateTokens | undefined)[];
}

/** What is known of a position. */
interface Known {
  tokens?: TokenSet;
  /** Where tokens lead. */
  next: Map<number, Position<Known>>;
}

export type Place = Position<Known>;

/** Bytes that a position takes when it has been used, roughly. */
const POSITION_BYTES = 2_500;

/**
 * Which tokens may come next. The tokens that a state allows by itself are found by one walk over the tree of all tokens,
 * once for each state; a position takes those of its ways together, and asks its callers only for tokens that run past the
 * end of a rule: within strings, for one, those with a quotation mark. So most of the work is done ahead, and what depends
 * on the place in a text is little.
 */
export class Masks {
  readonly #machine: Machine<Known>;
  readonly #vocabulary: Vocabulary;
  readonly #ends: readonly number[];
  readonly #limit: number;
  readonly #scratch: Int32Array;
  /** Positions on the path to the node that a walk is at. */
  readonly #path: Place[] = [];
  readonly #same: Int32Array;
  #states: (StateTokens | undefined)[];
  #first: TokenSet | undefined;
  #bytes = 0;

  /** `ends` are the tokens that end a text; `limit` is in bytes. */
  constructor(automaton: Automaton, vocabulary: Vocabulary, ends: Iterable<number>, limit: number, prepared?: Prepared) {
    this.#machine = new Machine(automaton);
    this.#vocabulary = vocabulary;
    this.#ends = [...ends].filter((id) => id < vocabulary.size);
    this.#limit = limit;
    this.#scratch = new Int32Array(Math.ceil(vocabulary.size / 32));
    this.#same = prepared?.same ?? equalStates(automaton, longest(vocabulary));
    this.#states = [...(prepared?.states ?? [])];
    for (const state of this.#states) if (state) this.#bytes += sizeOf(state.tokens) + state.leaving.byteLength;
  }

  get start(): Place {
    return this.#machine.start;
  }

  /** Memory that is used, roughly. */
  get bytes(): number {
    return this.#bytes + this.#machine.size * POSITION_BYTES;
  }

  /** Words of the bits of a set. */
  get words(): number {
    return this.#scratch.length;
  }

  /** Finds what the states allow ahead, as long as there is time (in milliseconds) and memory. */
  prepare(time: number): Prepared {
    const end = performance.now() + time;
    const { edgeStarts, accepting } = this.#machine.automaton;
    for (let state = 0; state < accepting.length && performance.now() < end && this.bytes < this.#limit / 2; state++) {
      if (edgeStarts[state]! < edgeStarts[state + 1]!) this.#ofState(state);
    }
    return { same: this.#same, states: this.#states };
  }

  /** The tokens that may come next, those that end the text included. Errors: UNSUPPORTED. */
  allowed(place: Place, first: boolean): TokenSet {
    if (first && this.#vocabulary.first !== this.#vocabulary.within) {
      this.#first ??= this.#collect(() => {
        this.#walk(this.#vocabulary.first, place, 0);
        if (place.accepting) this.#mark(this.#ends);
      });
      return this.#first;
    }
    const known = this.#known(place);
    return (known.tokens ??= this.#find(place));
  }

  /** Where a token leads; undefined if it may not come. */
  next(place: Place, token: number, first: boolean): Place | undefined {
    const { within, first: atStart } = this.#vocabulary;
    const known = this.#known(place);
    const found = first && atStart !== within ? undefined : known.next.get(token);
    if (found) return found;
    const { offsets, bytes } = first ? atStart : within;
    if (!(offsets[token]! < offsets[token + 1]!)) return undefined;
    let at: Place | null = place;
    for (let i = offsets[token]!; i < offsets[token + 1]! && at; i++) at = this.#machine.step(at, bytes[i]!);
    if (!at) return undefined;
    if (!first) known.next.set(token, at);
    if (this.bytes > this.#limit) this.#forget();
    return at;
  }

  #known(place: Place): Known {
    return (place.note ??= { next: new Map() });
  }

  #forget(): void {
    this.#machine.forget();
    this.#states = [];
    this.#bytes = 0;
  }

  #find(place: Place): TokenSet {
    const { ways, accepting } = place;
    const own = ways.map(({ state }) => this.#ofState(state));
    if (ways.length === 1 && !accepting && (!ways[0]!.stack || own[0]!.leaving.length === 0)) return own[0]!.tokens;
    const tokens = this.#collect(() => {
      for (const [i, { stack }] of ways.entries()) {
        this.#add(own[i]!.tokens);
        if (!stack) continue;
        const returned = this.#machine.returned(stack);
        for (const node of own[i]!.leaving) this.#walk(this.#vocabulary.within, returned, node);
      }
      if (accepting) this.#mark(this.#ends);
    });
    this.#bytes += sizeOf(tokens);
    return tokens;
  }

  #ofState(each: number): StateTokens {
    const state = this.#same[each]!;
    const known = this.#states[state];
    if (known) return known;
    const leaving: number[] = [];
    const tokens = this.#collect(() => this.#walk(this.#vocabulary.within, this.#machine.only(state), 0, leaving));
    const found = { tokens, leaving: Int32Array.from(leaving) };
    this.#bytes += sizeOf(tokens) + found.leaving.byteLength;
    this.#states[state] = found;
    return found;
  }

  /** Marks the tokens below a node that fit from a position on. Nodes where the text may end are `leaving`. */
  #walk({ tree }: Spelling, from: Place, node: number, leaving?: number[]): void {
    const { byte, depth, end, tokenStarts, tokens } = tree;
    const path = this.#path;
    const scratch = this.#scratch;
    const [base, last] = [depth[node]!, end[node]!];
    path[0] = from;
    for (let at = node + 1; at < last; ) {
      const level = depth[at]! - base;
      const before = path[level - 1]!;
      const known = before.next[byte[at]!];
      const next = known === undefined ? this.#machine.step(before, byte[at]!) : known;
      if (next === null) {
        at = end[at]!;
        continue;
      }
      path[level] = next;
      for (let i = tokenStarts[at]!; i < tokenStarts[at + 1]!; i++) {
        const token = tokens[i]!;
        scratch[token >> 5]! |= 1 << (token & 31);
      }
      if (leaving && next.accepting && end[at]! > at + 1) leaving.push(at);
      at++;
    }
  }

  #add({ ids, bits }: TokenSet): void {
    if (ids) this.#mark(ids);
    else for (let word = 0; word < bits.length; word++) this.#scratch[word]! |= bits[word]!;
  }

  #mark(ids: Iterable<number>): void {
    for (const id of ids) this.#scratch[id >> 5]! |= 1 << (id & 31);
  }

  /** What `mark` marks, as a set. */
  #collect(mark: () => void): TokenSet {
    const scratch = this.#scratch.fill(0);
    mark();
    const ids: number[] = [];
    for (const [word, bits] of scratch.entries()) {
      for (let left = bits; left !== 0; left &= left - 1) ids.push(32 * word + 31 - Math.clz32(left & -left));
      if (ids.length > scratch.length) return { bits: scratch.slice() };
    }
    return { ids: Int32Array.from(ids) };
  }
}

/** The bytes of the longest token. */
function longest({ within, first }: Vocabulary): number {
  return [within, first].reduce((most, { tree }) => tree.depth.reduce((a, b) => Math.max(a, b), most), 0);
}

/** Writes a set as bits. */
export function writeBits(row: Int32Array, { ids, bits }: TokenSet): void {
  if (bits) row.set(bits);
  else {
    row.fill(0);
    for (const id of ids) row[id >> 5]! |= 1 << (id & 31);
  }
}

function sizeOf({ ids, bits }: TokenSet): number {
  return (ids ?? bits).byteLength;
}
