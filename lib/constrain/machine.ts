import { SpkvError } from '../errors.js';
import type { Automaton } from './automaton.js';

/** Most ways in which a text may be read at a time. */
const MAX_WAYS = 512;

/** The calls that have to return: the innermost state to return to, and the calls around it. */
export interface Stack {
  readonly number: number;
  readonly state: number;
  readonly outer: Stack | undefined;
  readonly inner: Map<number, Stack>;
  /** Where it goes on when the innermost call has returned. */
  returned: Position | undefined;
}

/** One way in which a text may go on: by a byte from this state. */
export interface Way {
  readonly state: number;
  readonly stack: Stack | undefined;
}

/** Where a text stands: all ways in which it may go on. Equal places are mostly the same object. */
export class Position<Note = unknown> {
  readonly ways: readonly Way[];
  /** Whether the text may end here. */
  readonly accepting: boolean;
  /** What whoever uses the machine knows of this place. */
  note: Note | undefined;
  /** Where each byte leads, as far as that is known; null: nowhere. */
  readonly next: (Position<Note> | null | undefined)[] = [];

  constructor(ways: readonly Way[], accepting: boolean) {
    this.ways = ways;
    this.accepting = accepting;
  }
}

/**
 * Runs an automaton over bytes, in all ways at a time that what has been read allows. Steps are remembered, so that a
 * step that was taken before costs a look-up.
 */
export class Machine<Note = unknown> {
  readonly start: Position<Note>;
  readonly automaton: Automaton;
  #positions = new Map<string, Position<Note>>();
  #outermost = new Map<number, Stack>();
  #stacks = 0;

  constructor(automaton: Automaton) {
    this.automaton = automaton;
    this.start = this.#reach([{ state: automaton.start, stack: undefined }]);
  }

  /** How many positions are remembered. */
  get size(): number {
    return this.#positions.size;
  }

  /** Begins to remember anew. Positions that are in use stay valid. */
  forget(): void {
    this.#positions = new Map();
    this.#outermost = new Map();
  }

  /** Where a byte leads; null if it does not fit. Errors: UNSUPPORTED for what is too ambiguous. */
  step(from: Position<Note>, byte: number): Position<Note> | null {
    const known = from.next[byte];
    if (known !== undefined) return known;
    const { edgeStarts, low, high, to } = this.automaton;
    const reached: Way[] = [];
    for (const { state, stack } of from.ways) {
      for (let edge = edgeStarts[state]!; edge < edgeStarts[state + 1]! && low[edge]! <= byte; edge++) {
        if (byte <= high[edge]!) reached.push({ state: to[edge]!, stack });
      }
    }
    const next = reached.length === 0 ? null : this.#reach(reached);
    from.next[byte] = next;
    return next;
  }

  /** One way alone. The calls that its state makes are other ways. */
  only(state: number): Position<Note> {
    return new Position([{ state, stack: undefined }], false);
  }

  /** Where a text stands when a call has returned. */
  returned(stack: Stack): Position<Note> {
    return (stack.returned ??= this.#reach([{ state: stack.state, stack: stack.outer }])) as Position<Note>;
  }

  /** The position of some ways and of all that follow from them by calls and returns. */
  #reach(open: Way[]): Position<Note> {
    const { automaton } = this;
    const seen = new Set<number>();
    const ways: { key: number; way: Way }[] = [];
    let accepting = false;
    for (let way = open.pop(); way !== undefined; way = open.pop()) {
      const { state, stack } = way;
      const key = (stack ? stack.number + 1 : 0) * automaton.accepting.length + state;
      if (seen.has(key)) continue;
      seen.add(key);
      if (seen.size > 4 * MAX_WAYS) break;
      if (automaton.accepting[state]) {
        if (stack) open.push({ state: stack.state, stack: stack.outer });
        else accepting = true;
      }
      for (let call = automaton.callStarts[state]!; call < automaton.callStarts[state + 1]!; call++) {
        open.push({ state: automaton.callee[call]!, stack: this.#push(stack, automaton.returnTo[call]!) });
      }
      if (automaton.edgeStarts[state]! < automaton.edgeStarts[state + 1]!) ways.push({ key, way });
    }
    if (ways.length > MAX_WAYS || seen.size > 4 * MAX_WAYS) {
      throw new SpkvError('UNSUPPORTED', `The constraint is too ambiguous: what has been written can go on in more than ${MAX_WAYS} ways`);
    }
    ways.sort((a, b) => a.key - b.key);
    const name = `${accepting} ${ways.map(({ key }) => key).join()}`;
    let position = this.#positions.get(name);
    if (!position) this.#positions.set(name, (position = new Position<Note>(ways.map(({ way }) => way), accepting)));
    return position;
  }

  #push(outer: Stack | undefined, state: number): Stack {
    // A call at the end of a rule returns to where the rule itself returns to.
    const { accepting, edgeStarts, callStarts } = this.automaton;
    const last = edgeStarts[state] === edgeStarts[state + 1] && callStarts[state] === callStarts[state + 1] && accepting[state] === 1;
    if (last && outer) return outer;
    const inner = outer ? outer.inner : this.#outermost;
    let stack = inner.get(state);
    if (!stack) inner.set(state, (stack = { number: this.#stacks++, state, outer, inner: new Map(), returned: undefined }));
    return stack;
  }
}
