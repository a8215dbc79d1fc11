import { PAGE_TOKENS, type Sequence } from '../ops.js';
import type { Choice } from './choice.js';
import type { KeptToken } from './kept.js';
import type { Pages } from './pages.js';
import { type Node, PrefixTree } from './prefix-tree.js';

/** A state of the cache that a later request may begin with. Its pages are shared with whoever has forked it. */
interface State {
  sequence: Sequence;
  threshold: number;
  length: number;
  node: Node<State>;
  /** As in {@link Choice.exact}. */
  exact: boolean;
  /** What is kept of its tokens and of those after them, if it stems from a request that asked. */
  kept: readonly KeptToken[] | undefined;
  /** Whether it is the end of an answer. */
  turn: boolean;
  /** Pages of its rings and of its kept pairs. */
  pages: number;
  /** Of the latter, those that are full: longer states share them. */
  full: number;
  /** Those that it shares with the next shorter state on its way. */
  shared: number;
}

export interface PrefixStats {
  /** States that are kept. */
  states: number;
  /** Pages that they hold, as far as they do not share them with one another. */
  pages: number;
  /** Requests that began with one, and those that found none. */
  hits: number;
  misses: number;
  /** States that had to make room. */
  dropped: number;
}

/**
 * The beginnings of texts that are in the cache, by token ids and threshold. What was pruned cannot be brought back, so
 * a text can only go on from where a sequence stood. States are kept
 *
 *   - at the multiples of the model's chunk within a prompt, where every prompt is cut;
 *   - at the end of a prompt (without its last token), for the same prompt again;
 *   - with 'turns', at the end of an answer, for the conversation that goes on.
 *
 * The first two are what reading the prompt anew would give, to the bit. The last one was written token by token
 * instead of read in pieces, which is the same but for rounding, as with a session.
 *
 * States give way when pages are short, and beyond their share of the pool, the least recently used first.
 */
export class Prefixes {
  readonly #trees = new Map<number, PrefixTree<State>>();
  /** In order of use, the least recent first. */
  readonly #states = new Set<State>();
  readonly #pages: Pages;
  readonly #chunk: number;
  readonly #reuse: 'turns' | 'exact' | 'none';
  readonly #mostPages: number;
  #held = 0;
  #hits = 0;
  #misses = 0;
  #dropped = 0;

  constructor(pages: Pages, chunk: number, reuse: 'turns' | 'exact' | 'none', mostPages: number) {
    this.#pages = pages;
    this.#chunk = chunk;
    this.#reuse = reuse;
    this.#mostPages = mostPages;
  }

  get stats(): PrefixStats {
    return { states: this.#states.size, pages: this.#held, hits: this.#hits, misses: this.#misses, dropped: this.#dropped };
  }

  /** The longest state that a text can begin with. The prompt's last token is left: it is read by a step of its own. */
  find({ ids, request }: Choice): State | undefined {
    const most = request.options.ids.length - 1;
    let found: State | undefined;
    const tree = this.#trees.get(request.options.threshold);
    if (!tree) return undefined;
    for (const state of tree.along(ids)) {
      if (state.length > most) break;
      if (request.options.kept && !state.kept) continue;
      // Pieces of a longer prompt would have been cut elsewhere.
      if (state.turn || state.length % this.#chunk === 0 || state.length === most) found = state;
    }
    return found;
  }

  /** A fork of a state, for a text to go on with. */
  async begin(choice: Choice, state: State | undefined): Promise<Sequence | undefined> {
    if (!state) {
      this.#misses++;
      return undefined;
    }
    this.#hits++;
    this.#use(state);
    choice.exact = state.exact;
    if (choice.kept) choice.keep(0, state.kept!.slice(0, state.length).map(({ kept }) => kept));
    return state.sequence.fork();
  }

  /** Keeps a fork of where the prompt of a text stands, if that is one of the places. */
  async keepPrompt(choice: Choice): Promise<void> {
    const { sequence, unread, read } = choice;
    if (this.#reuse === 'none' || read === 0 || (read % this.#chunk !== 0 && unread > 0)) return;
    if (await this.#known(choice, read)) return;
    await this.#keep(choice, await sequence!.fork(), false);
    choice.forecast = undefined; // what is shared is copied when it is written to
  }

  /** Takes over the sequence of a text that has ended, or frees it. */
  async keepTurn(choice: Choice): Promise<void> {
    const sequence = choice.sequence!;
    choice.sequence = undefined;
    if (this.#reuse !== 'turns' || sequence.length === 0) return sequence.dispose();
    if (await this.#known(choice, sequence.length)) return sequence.dispose();
    return this.#keep(choice, sequence, true);
  }

  /** Frees the least recently used state but `spared`. False if there is none. */
  async drop(spared?: State): Promise<boolean> {
    for (const state of this.#states) {
      if (state === spared) continue;
      this.#dropped++;
      await this.#forget(state);
      return true;
    }
    return false;
  }

  async clear(): Promise<void> {
    for (const state of this.#states) await this.#forget(state);
  }

  /** Whether there is a state already of so many tokens of a text. One that tells less than the text does gives way. */
  async #known({ ids, request, kept }: Choice, length: number): Promise<boolean> {
    const tree = this.#trees.get(request.options.threshold);
    const state = [...(tree?.along(ids) ?? [])].find((each) => each.length === length);
    if (!state) return false;
    if (kept && !state.kept) {
      await this.#forget(state);
      return false;
    }
    this.#use(state);
    return true;
  }

  async #keep({ ids, request, exact, kept }: Choice, sequence: Sequence, turn: boolean): Promise<void> {
    const { threshold } = request.options;
    let tree = this.#trees.get(threshold);
    if (!tree) this.#trees.set(threshold, (tree = new PrefixTree()));
    const { length } = sequence;
    let shorter: State | undefined;
    for (const state of tree.along(ids)) if (state.length < length) shorter = state;
    const { pages, kept: pairs } = await sequence.stats();
    const full = pairs.reduce((sum, count) => sum + Math.floor(count / PAGE_TOKENS), 0);
    const shared = shorter?.full ?? 0;
    const node = tree.at(ids, length);
    const state: State = { sequence, threshold, length, node, exact: exact && !turn, kept, turn, pages, full, shared };
    node.value = state;
    this.#states.add(state);
    this.#held += pages - shared;
    while (this.#held > this.#mostPages && (await this.drop()));
  }

  #use(state: State): void {
    this.#states.delete(state);
    this.#states.add(state);
  }

  async #forget(state: State): Promise<void> {
    this.#states.delete(state);
    this.#held -= state.pages - state.shared;
    const tree = this.#trees.get(state.threshold)!;
    // What longer states shared with it is theirs now, or shared with the next shorter one.
    for (const longer of tree.next(state.node)) {
      this.#held += longer.shared - state.shared;
      longer.shared = state.shared;
    }
    tree.delete(state.node);
    if (tree.empty) this.#trees.delete(state.threshold);
    await state.sequence.dispose();
    await this.#pages.refresh();
  }
}
