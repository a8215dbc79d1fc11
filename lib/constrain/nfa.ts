import { SpkvError } from '../errors.js';
import type { Pattern, Range } from './patterns.js';

const MAX_STATES = 1 << 18;
/** Milliseconds that building may take. */
const MAX_TIME = 5_000;

/** What a grammar may cost, counted over all of its rules. */
export class Budget {
  #states = MAX_STATES;
  readonly #end = performance.now() + MAX_TIME;

  /** Errors: UNSUPPORTED. */
  take(states: number): void {
    this.#states -= states;
    if (this.#states < 0) throw new SpkvError('UNSUPPORTED', `The constraint is too large: it needs more than ${MAX_STATES} states`);
    if ((this.#states & 255) < states && performance.now() > this.#end) throw new SpkvError('UNSUPPORTED', `The constraint is too large: its automaton was not done after ${MAX_TIME} ms`);
  }
}

/** A nondeterministic automaton of one rule. State 0 is its start. */
export interface Nfa {
  /** To states that are reached for nothing. */
  free: number[][];
  /** By a byte of a range. */
  edges: { range: Range; to: number }[][];
  /** By what a rule describes. */
  calls: { rule: number; to: number }[][];
  end: number;
}

/** A deterministic one. State 0 is its start; the ranges of a state's edges rise and do not overlap. */
export interface Dfa {
  accepting: boolean[];
  edges: { range: Range; to: number }[][];
  calls: { rule: number; to: number }[][];
}

export function nfaOf(pattern: Pattern, budget: Budget): Nfa {
  const nfa: Nfa = { free: [], edges: [], calls: [], end: 0 };
  const add = () => {
    budget.take(1);
    nfa.edges.push([]);
    nfa.calls.push([]);
    return nfa.free.push([]) - 1;
  };
  const join = (from: number, to: number) => void nfa.free[from]!.push(to);
  /** Adds what `part` describes after `from`; gives the state after it. */
  const append = (part: Pattern, from: number): number => {
    switch (part.kind) {
      case 'bytes': {
        const to = add();
        for (const range of part.ranges) nfa.edges[from]!.push({ range, to });
        return to;
      }
      case 'sequence':
        return part.parts.reduce((at, each) => append(each, at), from);
      case 'choice': {
        const to = add();
        for (const each of part.options) {
          const start = add();
          join(from, start);
          join(append(each, start), to);
        }
        return to;
      }
      case 'repeat': {
        let at = from;
        for (let i = 0; i < part.min; i++) at = append(part.part, at);
        const to = add();
        join(at, to);
        if (part.max === Infinity) {
          const start = add();
          join(at, start);
          const end = append(part.part, start);
          join(end, start);
          join(end, to);
          return to;
        }
        for (let i = part.min; i < part.max; i++) {
          const start = add();
          join(at, start);
          at = append(part.part, start);
          join(at, to);
        }
        return to;
      }
      case 'list': {
        // Two lanes: before the first member that is there, and after.
        let [none, some] = [from, add()];
        for (const { part: member, optional } of part.members) {
          const [nextNone, nextSome] = [add(), add()];
          const begin = add();
          join(none, begin);
          join(append(part.separator, some), begin);
          join(append(member, begin), nextSome);
          if (optional) {
            join(none, nextNone);
            join(some, nextSome);
          }
          [none, some] = [nextNone, nextSome];
        }
        const to = add();
        join(none, to);
        join(some, to);
        return to;
      }
      case 'call': {
        const to = add();
        nfa.calls[from]!.push({ rule: part.rule, to });
        return to;
      }
      case 'both': {
        const dfa = intersect(dfaOf(nfaOf(part.a, budget), budget), dfaOf(nfaOf(part.b, budget), budget), budget);
        const states = dfa.edges.map(add);
        const to = add();
        join(from, states[0]!);
        for (const [state, edges] of dfa.edges.entries()) {
          for (const edge of edges) nfa.edges[states[state]!]!.push({ range: edge.range, to: states[edge.to]! });
          if (dfa.accepting[state]) join(states[state]!, to);
        }
        return to;
      }
    }
  };
  nfa.end = append(pattern, add());
  return nfa;
}

/** By the construction of subsets. */
export function dfaOf(nfa: Nfa, budget: Budget): Dfa {
  const dfa: Dfa = { accepting: [], edges: [], calls: [] };
  const known = new Map<string, number>();
  const subsets: number[][] = [];
  const marks = new Int32Array(nfa.free.length);
  let mark = 0;
  const closure = (states: readonly number[]): number[] => {
    mark++;
    const all: number[] = [];
    const open = [...states];
    for (let state = open.pop(); state !== undefined; state = open.pop()) {
      if (marks[state] === mark) continue;
      marks[state] = mark;
      // What leads nowhere by itself does not tell subsets apart.
      if (nfa.edges[state]!.length + nfa.calls[state]!.length > 0 || state === nfa.end) all.push(state);
      open.push(...nfa.free[state]!);
    }
    return all.sort((a, b) => a - b);
  };
  const find = (states: readonly number[]): number => {
    const subset = closure(states);
    const key = subset.join();
    const found = known.get(key);
    if (found !== undefined) return found;
    budget.take(1 + (subset.length >> 5)); // large subsets take memory, too
    known.set(key, subsets.length);
    return subsets.push(subset) - 1;
  };
  find([0]);
  for (let state = 0; state < subsets.length; state++) {
    const subset = subsets[state]!;
    dfa.accepting.push(subset.includes(nfa.end));
    dfa.edges.push(partition(subset.flatMap((each) => nfa.edges[each]!), find));
    const byRule = new Map<number, number[]>();
    for (const { rule, to } of subset.flatMap((each) => nfa.calls[each]!)) byRule.set(rule, [...(byRule.get(rule) ?? []), to]);
    dfa.calls.push([...byRule].map(([rule, to]) => ({ rule, to: find(to) })));
  }
  return dfa;
}

/** Cuts overlapping ranges into ranges that do not overlap, each with one target for all that it came from. */
function partition(edges: readonly { range: Range; to: number }[], find: (states: readonly number[]) => number): { range: Range; to: number }[] {
  if (edges.length === 0) return [];
  const cuts = [...new Set(edges.flatMap(({ range: [low, high] }) => [low, high + 1]))].sort((a, b) => a - b);
  const parts: { range: [number, number]; to: number }[] = [];
  for (let i = 0; i + 1 < cuts.length; i++) {
    const [low, high] = [cuts[i]!, cuts[i + 1]! - 1];
    const targets = edges.filter(({ range }) => range[0] <= low && high <= range[1]).map(({ to }) => to);
    if (targets.length === 0) continue;
    const to = find(targets);
    const last = parts.at(-1);
    if (last && last.to === to && last.range[1] === low - 1) last.range[1] = high;
    else parts.push({ range: [low, high], to });
  }
  return parts;
}

/** What both accept. Neither has calls. */
function intersect(a: Dfa, b: Dfa, budget: Budget): Dfa {
  const dfa: Dfa = { accepting: [], edges: [], calls: [] };
  const pairs: [number, number][] = [];
  const known = new Map<number, number>();
  const find = (i: number, j: number): number => {
    const key = i * b.edges.length + j;
    const found = known.get(key);
    if (found !== undefined) return found;
    budget.take(1);
    known.set(key, pairs.length);
    return pairs.push([i, j]) - 1;
  };
  find(0, 0);
  for (let state = 0; state < pairs.length; state++) {
    const [i, j] = pairs[state]!;
    dfa.accepting.push(a.accepting[i]! && b.accepting[j]!);
    dfa.calls.push([]);
    dfa.edges.push(
      a.edges[i]!.flatMap(({ range, to }) =>
        b.edges[j]!.flatMap((other) => {
          const [low, high] = [Math.max(range[0], other.range[0]), Math.min(range[1], other.range[1])];
          return low <= high ? [{ range: [low, high] as const, to: find(to, other.to) }] : [];
        }),
      ).sort((x, y) => x.range[0] - y.range[0]),
    );
  }
  return dfa;
}
