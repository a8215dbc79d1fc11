import { SpkvError } from '../errors.js';
import { Budget, type Dfa, dfaOf, nfaOf } from './nfa.js';
import type { Grammar } from './patterns.js';

/**
 * A grammar as a machine: the deterministic automata of its rules, side by side. A state may also call a rule: it goes on
 * at the rule's start, and where the rule has ended, at the state to return to. From every state an end can be reached.
 * Plain arrays, so that it can be sent between threads.
 */
export interface Automaton {
  /** Where a text begins. */
  start: number;
  /** [states] whether the rule may end here. */
  accepting: Uint8Array;
  /** Edges of state s: edgeStarts[s] to edgeStarts[s + 1] of the following, by rising bytes. */
  edgeStarts: Int32Array;
  low: Uint8Array;
  high: Uint8Array;
  to: Int32Array;
  /** Calls of state s: callStarts[s] to callStarts[s + 1] of the following. */
  callStarts: Int32Array;
  callee: Int32Array;
  returnTo: Int32Array;
}

/** Errors: UNSUPPORTED for a grammar that is too large; INVALID_ARGUMENT for one that no text fits, or that is left-recursive. */
export function buildAutomaton(grammar: Grammar): Automaton {
  const budget = new Budget();
  const rules = grammar.map((body) => dfaOf(nfaOf(body, budget), budget));
  const alive = liveStates(rules);
  if (!alive[0]![0]) throw new SpkvError('INVALID_ARGUMENT', 'The constraint contradicts itself: no text fits it');
  refuseLeftRecursion(rules, alive);
  return flatten(rules, alive);
}

/** For each state of each rule, whether an end of the rule can be reached from it. */
function liveStates(rules: readonly Dfa[]): boolean[][] {
  const alive = rules.map(({ accepting }) => [...accepting]);
  for (let changed = true; changed; ) {
    changed = false;
    for (const [rule, { edges, calls }] of rules.entries()) {
      const mine = alive[rule]!;
      for (let state = mine.length - 1; state >= 0; state--) {
        if (mine[state]) continue;
        if (!edges[state]!.some(({ to }) => mine[to]) && !calls[state]!.some((call) => alive[call.rule]![0] && mine[call.to])) continue;
        mine[state] = changed = true;
      }
    }
  }
  return alive;
}

/** A rule that calls itself before it has read anything would be called for ever. */
function refuseLeftRecursion(rules: readonly Dfa[], alive: readonly boolean[][]): void {
  const empty = rules.map(() => false);
  /** The states that a rule reaches before it has read anything. */
  const begun = (rule: number): Set<number> => {
    const states = new Set([0]);
    for (const state of states) for (const call of rules[rule]!.calls[state]!) if (empty[call.rule]) states.add(call.to);
    return states;
  };
  for (let changed = true; changed; ) {
    changed = false;
    for (const [rule, { accepting }] of rules.entries()) {
      if (empty[rule] || ![...begun(rule)].some((state) => accepting[state])) continue;
      empty[rule] = changed = true;
    }
  }
  const state = rules.map((): 'new' | 'open' | 'done' => 'new');
  const visit = (rule: number): void => {
    if (state[rule] === 'open') throw new SpkvError('INVALID_ARGUMENT', 'The constraint refers to itself without anything in between');
    if (state[rule] === 'done') return;
    state[rule] = 'open';
    for (const each of begun(rule)) for (const call of rules[rule]!.calls[each]!) if (alive[call.rule]![0]) visit(call.rule);
    state[rule] = 'done';
  };
  for (const rule of rules.keys()) visit(rule);
}

function flatten(rules: readonly Dfa[], alive: readonly boolean[][]): Automaton {
  let count = 0;
  const numbers = alive.map((states) => states.map((live) => (live ? count++ : -1)));
  const edgeStarts = new Int32Array(count + 1);
  const callStarts = new Int32Array(count + 1);
  const accepting = new Uint8Array(count);
  const [low, high, to, callee, returnTo]: [number[], number[], number[], number[], number[]] = [[], [], [], [], []];
  for (const [rule, dfa] of rules.entries()) {
    for (const [state, number] of numbers[rule]!.entries()) {
      if (number < 0) continue;
      accepting[number] = Number(dfa.accepting[state]);
      for (const edge of dfa.edges[state]!) {
        const target = numbers[rule]![edge.to]!;
        if (target < 0) continue;
        low.push(edge.range[0]);
        high.push(edge.range[1]);
        to.push(target);
      }
      for (const call of dfa.calls[state]!) {
        const [start, target] = [numbers[call.rule]![0]!, numbers[rule]![call.to]!];
        if (start < 0 || target < 0) continue;
        callee.push(start);
        returnTo.push(target);
      }
      edgeStarts[number + 1] = low.length;
      callStarts[number + 1] = callee.length;
    }
  }
  return {
    start: 0, accepting, edgeStarts, low: Uint8Array.from(low), high: Uint8Array.from(high), to: Int32Array.from(to),
    callStarts, callee: Int32Array.from(callee), returnTo: Int32Array.from(returnTo),
  };
}
