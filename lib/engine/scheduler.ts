import { SpkvError } from '../errors.js';
import type { KvCache } from '../ops.js';
import { type Batch, emptyBatch, keepPlaces, type Piece } from './batch.js';
import type { Choice } from './choice.js';
import type { ResolvedEngineOptions } from './options.js';
import type { Pages } from './pages.js';
import type { Parking } from './parking.js';
import type { Prefixes } from './prefixes.js';
import type { Queue } from './queue.js';
import type { Rates } from './rates.js';

/** What the scheduler decides with. */
export interface SchedulerParts {
  cache: KvCache;
  chunk: number;
  options: ResolvedEngineOptions;
  queue: Queue;
  pages: Pages;
  prefixes: Prefixes;
  parking: Parking;
  rates: Rates;
}

/**
 * Decides who gets a place, what each step does, and who makes room. The order of seniority is that of priority, then of
 * arrival; whoever is most senior always goes on, so that there is progress however small the pool.
 */
export class Scheduler {
  readonly #parts: SchedulerParts;
  /** The texts that have a place. */
  readonly #running = new Set<Choice>();
  #rows: readonly Choice[] = [];

  constructor(parts: SchedulerParts) {
    this.#parts = parts;
  }

  get running(): ReadonlySet<Choice> {
    return this.#running;
  }

  /** The next step; empty when nothing can be done now. */
  async schedule(now: number): Promise<Batch> {
    await this.#release(now);
    await this.#admit(now);
    const { pages } = this.#parts;
    for (;;) {
      await pages.forecast(this.#running, (choice) => this.#tokens(choice));
      const batch = this.#plan(now);
      if (batch.pages <= pages.free || !(await this.makeRoom())) {
        this.#rows = batch.rows;
        return batch;
      }
    }
  }

  /** Frees pages: those of states kept for later, then those of the text that can best wait. False if neither is left. */
  async makeRoom(): Promise<boolean> {
    const { prefixes } = this.#parts;
    if (await prefixes.drop()) {
      for (const choice of this.#running) choice.forecast = undefined; // less of it is shared now
      return true;
    }
    if (this.#running.size < 2) return false;
    await this.#park(this.#junior());
    return true;
  }

  /** Takes out a text that has ended, with its memory. */
  async remove(choice: Choice, keep: boolean): Promise<void> {
    const { sequence } = choice;
    this.#running.delete(choice);
    choice.saved = undefined;
    if (!sequence) return;
    if (keep) return this.#parts.prefixes.keepTurn(choice);
    choice.sequence = undefined;
    await sequence.dispose();
  }

  /** Lets go of everything, whatever the device says to it. */
  async abandon(): Promise<void> {
    for (const choice of this.#parts.queue) this.#parts.queue.remove(choice);
    await Promise.allSettled([...this.#running].map((choice) => this.remove(choice, false)));
  }

  /** Texts whose request has ended or whose time is up lose their places before the step. */
  async #release(now: number): Promise<void> {
    const { queue, pages } = this.#parts;
    const over = (choice: Choice) => {
      if (now > choice.request.expires) choice.request.fail(new SpkvError('DEADLINE', `The request has not ended within its ${choice.request.options.deadline} milliseconds`));
      return choice.ended;
    };
    for (const choice of queue) if (over(choice)) queue.remove(choice);
    const ended: Choice[] = [];
    for (const choice of this.#running) if (over(choice)) ended.push(choice);
    await Promise.all(ended.map((choice) => this.remove(choice, false)));
    if (ended.length > 0 || !pages.stats) await pages.refresh();
  }

  async #admit(now: number): Promise<void> {
    const { queue, options } = this.#parts;
    for (;;) {
      const choice = queue.first(now, (each) => !this.paused(each));
      if (!choice) break;
      const seats = [...this.#running, choice].reduce((sum, each) => sum + 1 + each.siblings.length, 0);
      if (seats > options.maxSequences || !(await this.#roomFor(choice))) break;
      queue.take(choice);
      await this.#begin(choice);
    }
    for (const choice of this.#running) if (choice.unread === 0 && !choice.forked) await this.#fork(choice);
  }

  /** Whether a text can begin, after some others have made room for it. */
  async #roomFor(choice: Choice): Promise<boolean> {
    const { pages, prefixes, cache } = this.#parts;
    const { threshold } = choice.request.options;
    const known = choice.saved ? undefined : prefixes.find(choice);
    const unread = choice.ids.length - (known?.length ?? 0);
    const need = choice.saved
      ? choice.saved.pages + pages.guess(threshold, cache.window)
      : pages.ring * (1 + choice.siblings.length) + pages.guess(threshold, unread);
    for (;;) {
      const reserved = [...this.#running].reduce((sum, each) => sum + pages.reserve(each), 0);
      if (pages.free - reserved >= need) return true;
      if (await prefixes.drop(known)) continue;
      if (this.#running.size === 0) return true;
      const junior = this.#junior();
      if (junior.request.options.priority >= choice.request.options.priority) return false;
      await this.#park(junior);
    }
  }

  async #begin(choice: Choice): Promise<void> {
    const { parking, pages } = this.#parts;
    try {
      choice.sequence = await parking.fetch(choice);
    } catch (error) {
      choice.request.fail(error);
      return;
    }
    choice.request.begin(choice.read);
    choice.request.emit(choice.reading());
    this.#running.add(choice);
    await pages.refresh();
  }

  /** The prompt has been read for all texts of the request. */
  async #fork(choice: Choice): Promise<void> {
    const { siblings, sequence, request } = choice;
    choice.forked = true;
    choice.forecast = undefined; // what is shared is copied when it is written to
    try {
      for (const sibling of siblings) {
        sibling.sequence = await sequence!.fork();
        sibling.follow(choice);
        this.#running.add(sibling);
      }
    } catch (error) {
      request.fail(error);
    }
  }

  async #park(choice: Choice): Promise<void> {
    this.#running.delete(choice);
    await this.#parts.parking.park(choice);
    this.#parts.queue.add(choice);
  }

  /** The one that can best wait: whose reader is behind, of the lowest priority, the youngest. */
  #junior(): Choice {
    const paused = (choice: Choice) => Number(this.paused(choice));
    return [...this.#running].reduce((a, b) => {
      const difference =
        paused(b) - paused(a) || a.request.options.priority - b.request.options.priority ||
        b.request.number - a.request.number || b.index - a.index;
      return difference > 0 ? b : a;
    });
  }

  /** Whether it waits for its reader. */
  paused({ request }: Choice): boolean {
    return request.unread >= this.#parts.options.readAhead;
  }

  /** Tokens that a text brings to a step. */
  #tokens(choice: Choice): number {
    const { chunk } = this.#parts;
    return choice.unread === 0 ? 1 : Math.min(choice.unread, chunk - (choice.read % chunk));
  }

  /** The step that the running texts make, whether or not there are pages for it. */
  #plan(now: number): Batch {
    const { pages, options } = this.#parts;
    const batch = emptyBatch();
    const writing: Choice[] = [];
    const reading: Choice[] = [];
    for (const choice of this.#running) if (!this.paused(choice)) (choice.unread === 0 ? writing : reading).push(choice);
    batch.rows = keepPlaces(this.#rows, writing);
    for (const choice of batch.rows) batch.pages += pages.need(choice, 1);
    let tokens = batch.rows.length;
    for (const choice of this.#inTurn(reading, now)) {
      const piece: Piece = { choice, ids: choice.ids.slice(choice.read, choice.read + this.#tokens(choice)) };
      const need = pages.need(choice, piece.ids.length);
      const first = batch.rows.length + batch.pieces.length === 0;
      if (tokens + piece.ids.length > options.stepTokens || (batch.pages + need > pages.free && !first)) continue;
      batch.pieces.push(piece);
      batch.pages += need;
      tokens += piece.ids.length;
    }
    return batch;
  }

  /** Prompts that are read, the shortest first; but what has waited as long as a longer one takes goes before that. */
  #inTurn(reading: Choice[], now: number): Choice[] {
    const left = ({ unread, request }: Choice) =>
      unread * this.#parts.rates.read.value - (now - request.arrival) - request.options.priority * 1e6;
    return reading.sort((a, b) => left(a) - left(b));
  }
}
