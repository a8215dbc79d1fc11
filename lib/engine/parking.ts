import type { KvCache, Sequence } from '../ops.js';
import { pairBytes } from '../report.js';
import type { Choice } from './choice.js';
import type { Pages } from './pages.js';
import type { Prefixes } from './prefixes.js';
import type { Rates } from './rates.js';

export interface ParkingStats {
  /** Texts whose state was saved to make room for others. */
  saved: number;
  /** Texts whose state was given up, to be computed again. */
  dropped: number;
}

/** How a text makes room for others, and comes back as if nothing had been. */
export class Parking {
  readonly stats: ParkingStats = { saved: 0, dropped: 0 };
  readonly #cache: KvCache;
  readonly #pages: Pages;
  readonly #prefixes: Prefixes;
  readonly #rates: Rates;

  constructor(cache: KvCache, pages: Pages, prefixes: Prefixes, rates: Rates) {
    this.#cache = cache;
    this.#pages = pages;
    this.#prefixes = prefixes;
    this.#rates = rates;
  }

  /** Takes a text out of the cache: its state goes to the host's memory, or is given up if reading again is cheaper. */
  async park(choice: Choice): Promise<void> {
    const sequence = choice.sequence!;
    if (choice.read > 0) await this.#putAside(choice, sequence); // else there is nothing to lose
    choice.sequence = undefined;
    choice.forecast = undefined;
    await sequence.dispose();
    await this.#pages.refresh();
  }

  async #putAside(choice: Choice, sequence: Sequence): Promise<void> {
    const { pages, kept, length } = await sequence.stats();
    const pairs = kept.reduce((sum, count) => sum + count, 0) + kept.length * Math.min(length, this.#cache.window);
    const bytes = pairs * pairBytes(this.#cache);
    if (choice.exact && this.#readAgain(choice) < bytes * this.#rates.save.value) {
      this.stats.dropped++;
    } else {
      const start = performance.now();
      choice.saved = { bytes: await sequence.save(), pages };
      // Coming back takes about as long again.
      this.#rates.save.note((2 * (performance.now() - start)) / choice.saved.bytes.length);
      this.stats.saved++;
    }
  }

  /** The state of a text that gets its place: what was saved, the longest known beginning, or nothing yet. */
  async fetch(choice: Choice): Promise<Sequence> {
    const { saved, request } = choice;
    if (saved) {
      const sequence = await this.#cache.restoreSequence(saved.bytes);
      choice.saved = undefined;
      return sequence;
    }
    choice.exact = true;
    const begun = await this.#prefixes.begin(choice, this.#prefixes.find(choice));
    return begun ?? this.#cache.createSequence({ threshold: request.options.threshold });
  }

  /** Milliseconds until the state would be there again. */
  #readAgain(choice: Choice): number {
    const known = this.#prefixes.find(choice);
    const prompt = choice.request.options.ids.length - 1;
    const from = known && known.exact ? known.length : 0;
    const written = Math.max(0, choice.read - prompt);
    return (Math.min(choice.read, prompt) - from) * this.#rates.read.value + written * this.#rates.write.value;
  }
}
