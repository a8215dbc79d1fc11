import { type KvCache, PAGE_TOKENS, type PoolStats, type Sequence } from '../ops.js';
import type { Choice } from './choice.js';

/** How much one new measurement counts against those before. */
const WEIGHT = 0.2;

/**
 * What the engine knows of the pool: the pages that are free, and those that each text will take. The latter is exact
 * for the tokens of a window, because whether a pair is kept is known when it comes and takes effect when it leaves.
 */
export class Pages {
  readonly #cache: KvCache;
  readonly #lists: number;
  /** Share of the pairs that are kept, by threshold: a guess at prompts that have not been read. */
  readonly #densities = new Map<number, number>();
  #stats: PoolStats | undefined;

  constructor(cache: KvCache) {
    this.#cache = cache;
    this.#lists = cache.layers * cache.kvHeads;
  }

  /** Pages of the rings of one sequence. */
  get ring(): number {
    return this.#lists * this.#cache.ringPages;
  }

  get free(): number {
    return this.#stats ? this.#stats.capacityPages - this.#stats.usedPages : 0;
  }

  get stats(): PoolStats | undefined {
    return this.#stats;
  }

  /** Takes the state of the pool from whoever has just asked for it. */
  note(stats: PoolStats): void {
    this.#stats = stats;
  }

  async refresh(): Promise<void> {
    this.note(await this.#cache.stats());
  }

  /**
   * Makes the forecasts of texts reach so many tokens, and over half of the window if the text is being written. To ask
   * is to wait for the device, so those that would be asked about soon are asked about together.
   */
  async forecast(choices: Iterable<Choice>, tokens: (choice: Choice) => number): Promise<void> {
    const { window } = this.#cache;
    const reading: Choice[] = [];
    const writing: Choice[] = [];
    let due = false;
    for (const choice of choices) {
      const known = this.#known(choice);
      if (choice.unread > 0) {
        if (known < tokens(choice)) reading.push(choice);
      } else if (known < Math.max(1, 0.75 * window)) {
        writing.push(choice);
        due ||= known < Math.max(1, 0.5 * window);
      }
    }
    const asked = reading.map((choice) => this.#ask([choice], Math.max(tokens(choice), window)));
    if (due) asked.push(this.#ask(writing, window));
    await Promise.all(asked);
  }

  async #ask(choices: readonly Choice[], tokens: number): Promise<void> {
    const lengths = choices.map(({ read }) => read);
    const forecasts = await this.#cache.forecast(choices.map(({ sequence }) => sequence!), tokens);
    for (const [i, choice] of choices.entries()) choice.forecast = { length: lengths[i]!, pages: forecasts[i]! };
  }

  /** Tokens that a text's forecast still reaches. */
  #known({ forecast, read }: Choice): number {
    return forecast ? forecast.pages.length - (read - forecast.length) : 0;
  }

  /** Pages that the next `tokens` tokens of a text will take, at most. */
  need(choice: Choice, tokens: number): number {
    if (tokens === 0) return 0;
    const { length, pages } = choice.forecast!;
    const before = choice.read - length;
    return pages[before + tokens - 1]! - (before > 0 ? pages[before - 1]! : 0);
  }

  /** Pages to be left for a text that runs: what it will take as far as that is known, or guessed for its prompt. */
  reserve(choice: Choice): number {
    const { unread, siblings } = choice;
    const forks = siblings.length * this.ring;
    if (unread > 0) return forks + this.guess(choice.request.options.threshold, unread);
    const known = this.#known(choice);
    return forks + (known > 0 ? this.need(choice, Math.min(known, choice.left)) : 0);
  }

  /** Pages that so many tokens of a prompt will take, as far as can be told from those that were read. */
  guess(threshold: number, tokens: number): number {
    return Math.ceil((this.#lists * tokens * (this.#densities.get(threshold) ?? 1)) / PAGE_TOKENS);
  }

  /** Learns from what a sequence holds how much is kept: pairs, of those that have left the window. */
  async measure(sequence: Sequence, threshold: number): Promise<{ kept: number; left: number }> {
    const { length, kept, pages } = await sequence.stats();
    const left = this.#lists * (length - this.#cache.window);
    if (left <= 0) return { kept: 0, left: 0 };
    const share = Math.min(1, ((pages - this.ring) * PAGE_TOKENS) / left);
    this.#densities.set(threshold, share * WEIGHT + (this.#densities.get(threshold) ?? share) * (1 - WEIGHT));
    return { kept: kept.reduce((sum, count) => sum + count, 0), left };
  }
}
