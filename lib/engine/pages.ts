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

  /** Makes the forecasts of texts reach so many tokens, and over half of the window if the text is being written. */
  async forecast(choices: Iterable<Choice>, tokens: (choice: Choice) => number): Promise<void> {
    const { window } = this.#cache;
    const due = [...choices].filter((choice) => {
      const left = choice.forecast ? choice.forecast.pages.length - (choice.read - choice.forecast.length) : -1;
      return left < tokens(choice) || (choice.unread === 0 && left < window / 2);
    });
    await Promise.all(
      due.map(async (choice) => {
        const length = choice.read;
        const pages = await choice.sequence!.forecast(Math.max(tokens(choice), window));
        choice.forecast = { length, pages };
      }),
    );
  }

  /** Pages that the next `tokens` tokens of a text will take, at most. */
  need({ forecast, read }: Choice, tokens: number): number {
    const at = (count: number) => (count > 0 ? forecast!.pages[count - 1]! : 0);
    return at(read - forecast!.length + tokens) - at(read - forecast!.length);
  }

  /** Pages to be left for a text that runs: what it will take as far as that is known, or guessed for its prompt. */
  reserve(choice: Choice): number {
    const { forecast, read, unread, siblings } = choice;
    const forks = siblings.length * this.ring;
    if (unread > 0) return forks + this.guess(choice.request.options.threshold, unread);
    const known = forecast ? forecast.pages.length - (read - forecast.length) : 0;
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
