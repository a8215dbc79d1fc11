import { integer, options } from '../check.js';
import { SpkvError } from '../errors.js';
import { reportCache } from '../report.js';
import type { TextModel } from '../text-model.js';
import type { Batch } from './batch.js';
import type { Choice } from './choice.js';
import type { TextEvent } from './events.js';
import { guarded } from './hooks.js';
import { type EngineOptions, type RequestOptions, type ResolvedEngineOptions, resolveEngineOptions, resolveRequest } from './options.js';
import { Pages } from './pages.js';
import { Parking } from './parking.js';
import { Prefixes } from './prefixes.js';
import { Queue } from './queue.js';
import { Rates } from './rates.js';
import { Request } from './request.js';
import { Runner } from './runner.js';
import { Scheduler } from './scheduler.js';
import { Counters, type EngineStats, type RequestRecord, type StepRecord } from './stats.js';

/** How long a closing engine waits for a reader that takes nothing. */
const READER_TIMEOUT_MS = 30_000;

/**
 * Answers many requests at a time with one model. Each step writes a token of every text that is being written and
 * reads pieces of prompts beside; texts come and go between steps.
 *
 *   await using engine = new Engine(model);
 *   const request = engine.generate('import os\n', { maxTokens: 100 });
 *   for await (const { text } of request) process.stdout.write(text);
 *
 * A text is the same alone and among others. One engine per model; sequences of others in the same cache are left in peace.
 */
export class Engine implements AsyncDisposable {
  readonly model: TextModel;
  readonly #options: ResolvedEngineOptions;
  readonly #queue = new Queue();
  readonly #pages: Pages;
  readonly #prefixes: Prefixes;
  readonly #parking: Parking;
  readonly #scheduler: Scheduler;
  readonly #runner: Runner;
  readonly #pageBytes: number;
  readonly #rates: Rates;
  readonly #counters = new Counters();
  readonly #onStep: (record: StepRecord) => void;
  readonly #onRequest: (record: RequestRecord) => void;
  /** Requests that have not ended. */
  readonly #open = new Set<Request>();
  #requests = 0;
  #wake: (() => void) | undefined;
  #loop: Promise<void> | undefined;
  #closing: { since: number; readerTimeout: number } | undefined;

  /** Errors: INVALID_ARGUMENT, OUT_OF_MEMORY. `rates` is for tests: what the engine believes of the machine at first. */
  constructor(model: TextModel, opts?: EngineOptions, rates = new Rates()) {
    const { cache, chunk } = model;
    this.model = model;
    this.#rates = rates;
    this.#options = resolveEngineOptions(model, opts);
    const { maxSequences, stepTokens, reuse, reuseShare, onStep, onRequest } = this.#options;
    this.#onStep = guarded('onStep', onStep);
    this.#onRequest = guarded('onRequest', onRequest);
    this.#pages = new Pages(cache);
    this.#pageBytes = model.device.pageBytes(cache.headDim, cache.dtype);
    this.#prefixes = new Prefixes(this.#pages, chunk, reuse, Math.floor(reuseShare * cache.capacityPages));
    this.#parking = new Parking(cache, this.#pages, this.#prefixes, this.#rates);
    this.#runner = new Runner(model, maxSequences, stepTokens, (stats) => this.#pages.note(stats), () => this.#deliver());
    this.#scheduler = new Scheduler({
      cache, chunk, options: this.#options, queue: this.#queue, pages: this.#pages, prefixes: this.#prefixes,
      parking: this.#parking, rates: this.#rates,
    });
  }

  /**
   * Begins to answer a prompt (text, or token ids). Errors: INVALID_ARGUMENT, OUT_OF_RANGE; OVERLOADED when too many
   * requests wait; DISPOSED after `close`. What goes wrong later is told by the request.
   */
  generate(prompt: string | readonly number[], opts?: RequestOptions): Request {
    if (this.#closing) throw new SpkvError('DISPOSED', 'The engine has been closed');
    const resolved = resolveRequest(this.model, this.#options.maxSequences, prompt, opts);
    const { maxWaiting, maxSequences } = this.#options;
    const places = Math.max(0, maxSequences - this.#scheduler.running.size);
    if (this.#queue.size >= maxWaiting + places) {
      this.#counters.requests.refused++;
      throw new SpkvError('OVERLOADED', `${this.#queue.size} requests are waiting already; maxWaiting allows no more`);
    }
    const request = new Request(this.model, resolved, this.#requests++, {
      wake: () => this.#wake?.(),
      ended: (ended) => this.#ended(ended),
    });
    if (request.ended) return request;
    this.#open.add(request);
    this.#queue.add(request.choices[0]!);
    this.#loop ??= this.#run();
    this.#wake?.();
    return request;
  }

  /** Most texts that are read and written at a time. */
  get maxSequences(): number {
    return this.#options.maxSequences;
  }

  /** How it stands. */
  stats(): EngineStats {
    const running = [...this.#scheduler.running].filter((choice) => !choice.ended);
    const paused = running.filter((choice) => this.#scheduler.paused(choice)).length;
    const reading = running.filter((choice) => choice.unread > 0 && !this.#scheduler.paused(choice)).length;
    const { requests, tokens, steps, latency, density } = this.#counters;
    return {
      requests: { waiting: this.#queue.size, ...requests },
      texts: { reading, writing: running.length - reading - paused, paused },
      tokens: { ...tokens },
      steps: { ...steps },
      latency: { ...latency },
      pool: { usedPages: this.#pages.stats?.usedPages ?? 0, capacityPages: this.model.cache.capacityPages, pageBytes: this.#pageBytes },
      density,
      preemptions: { ...this.#parking.stats },
      prefixes: this.#prefixes.stats,
    };
  }

  /**
   * Takes no more requests, and resolves when those that are there have ended and all memory is free again. A reader
   * that has fallen behind and takes nothing for `readerTimeout` milliseconds (30,000) is given up: its request ends as
   * DEADLINE. With `abort` all end at once, as ABORTED.
   */
  async close(opts?: { abort?: boolean; readerTimeout?: number }): Promise<void> {
    const { abort = false, readerTimeout = READER_TIMEOUT_MS } = options(opts, 'close options', ['abort', 'readerTimeout']);
    const { since, readerTimeout: before } = this.#closing ?? { since: performance.now(), readerTimeout: Infinity };
    this.#closing = { since, readerTimeout: Math.min(integer(readerTimeout, 'readerTimeout'), before) };
    if (abort) for (const request of this.#open) request.cancel(new SpkvError('ABORTED', 'The engine is closing'));
    this.#wake?.();
    this.#closed ??= (async () => {
      await (this.#loop ?? Promise.resolve());
      await this.#prefixes.clear();
      this.#runner.dispose();
    })();
    return this.#closed;
  }
  #closed: Promise<void> | undefined;

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close({ abort: true });
  }

  /** Steps as long as there is something to do, then waits. Ends when the engine is closing and nothing is left. */
  async #run(): Promise<void> {
    for (;;) {
      const woken = new Promise<void>((resolve) => (this.#wake = resolve));
      try {
        if (await this.#step()) continue;
      } catch (error) {
        // A device that fails, or a defect: whoever waits is told, and the next request finds out whether it is over.
        for (const request of this.#open) request.fail(error);
        await this.#scheduler.abandon();
      }
      this.#deliver();
      if (this.#closing && this.#open.size === 0 && this.#scheduler.running.size === 0) return;
      await this.#sleep(woken);
    }
  }

  /** Schedules a step, runs it, and deals with what came of it. False if there is nothing to do. */
  async #step(): Promise<boolean> {
    const now = performance.now();
    for (const request of this.#open) {
      if (now > this.#stalls(request)) request.fail(new SpkvError('DEADLINE', 'The engine is closing, and the reader has taken nothing for too long'));
    }
    const batch = await this.#scheduler.schedule(now);
    if (batch.rows.length + batch.pieces.length === 0) return false;
    const start = performance.now();
    const busy = this.model.device.busyNanoseconds;
    try {
      await this.#runner.run(batch);
    } catch (error) {
      if (!(error instanceof SpkvError) || error.code !== 'POOL_EXHAUSTED') throw error;
      // Nothing has changed. Somebody else uses the cache, or the last text is too large for it.
      if (!(await this.#scheduler.makeRoom())) for (const { request } of this.#scheduler.running) request.fail(error);
      return true;
    }
    const milliseconds = performance.now() - start;
    this.#note(batch, milliseconds, (this.model.device.busyNanoseconds - busy) / 1e6);
    await this.#settle(batch);
    return true;
  }

  #note(batch: Batch, milliseconds: number, deviceMilliseconds: number): void {
    const record = this.#counters.step(batch, milliseconds, deviceMilliseconds);
    if (record.read === 0) this.#rates.write.note(milliseconds);
    else this.#rates.read.note(milliseconds / record.read);
    this.#onStep(record);
  }

  /** Hands out the tokens, keeps states for later, and lets go of what has ended. */
  async #settle({ rows, pieces, drawn, logprobs, kept, failures }: Batch): Promise<void> {
    for (const [choice, error] of failures) choice.request.fail(error);
    for (const [choice, lists] of kept) choice.keep(choice.read - lists.length, lists);
    const finished: { choice: Choice; last: TextEvent }[] = [];
    for (const [row, choice] of rows.entries()) {
      // After the step: what was read was the last known token, unless known ones are read again.
      if (choice.ended || choice.read < choice.ids.length) continue;
      try {
        const event = choice.write(drawn[row]!, logprobs[row]);
        if (event.finishReason === undefined) choice.request.emit(event);
        else finished.push({ choice, last: event });
      } catch (error) {
        choice.request.fail(error);
      }
    }
    for (const { choice } of pieces) {
      if (choice.ended) continue;
      choice.request.emit(choice.reading());
      await this.#prefixes.keepPrompt(choice);
      if (choice.unread === 0) await this.#pages.measure(choice.sequence!, choice.request.options.threshold);
    }
    for (const { choice, last } of finished) {
      const sequence = choice.sequence!;
      const [pairs, cache] = await Promise.all([this.#pages.measure(sequence, choice.request.options.threshold), reportCache(sequence)]);
      this.#counters.pairs(pairs);
      choice.cache = cache;
      choice.request.emit(last);
      await this.#scheduler.remove(choice, !choice.request.failed);
    }
    if (finished.length > 0) await this.#pages.refresh();
  }

  /**
   * Wakes the readers of what the last step has written. What they do then is not to keep the device waiting: it comes
   * when the next step is under way, or when there is none.
   */
  #deliver(): void {
    for (const request of this.#open) request.deliver();
  }

  #ended(request: Request): void {
    this.#open.delete(request);
    this.#onRequest(this.#counters.request(request));
  }

  /** When the engine, if it is closing, waits no longer for the reader of a request. */
  #stalls(request: Request): number {
    if (!this.#closing || request.unread < this.#options.readAhead) return Infinity;
    return Math.max(this.#closing.since, request.lastRead) + this.#closing.readerTimeout;
  }

  /** Until something changes, or a request runs out of time. */
  async #sleep(woken: Promise<void>): Promise<void> {
    const next = Math.min(...Array.from(this.#open, (request) => Math.min(request.expires, this.#stalls(request))));
    const timer = Number.isFinite(next) ? setTimeout(() => this.#wake?.(), Math.min(Math.max(1, next - performance.now() + 1), 2 ** 31 - 1)) : undefined;
    await woken;
    clearTimeout(timer);
  }
}
