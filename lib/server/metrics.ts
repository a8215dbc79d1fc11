import { monitorEventLoopDelay } from 'node:perf_hooks';
import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { Engine } from '../engine/engine.js';
import type { EngineStats, RequestRecord, StepRecord } from '../engine/stats.js';

/** Bounds in seconds: a step of a small model takes less than a millisecond, a queue minutes. */
const SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300];
const TEXTS = [1, 2, 4, 8, 16, 32, 64, 128, 256];

/** What is told to Prometheus: histograms as things happen, all else when it asks. */
export class Metrics {
  readonly registry = new Registry();
  readonly #delay = monitorEventLoopDelay({ resolution: 1 });
  /** Seconds that requests took lately. */
  #seconds = 0;
  readonly #firstToken = this.#histogram('spkv_time_to_first_token_seconds', 'From the arrival of a request to its first token', SECONDS);
  readonly #perToken = this.#histogram('spkv_time_per_token_seconds', 'Between two tokens of a text, as the mean of a request', SECONDS);
  readonly #wait = this.#histogram('spkv_queue_seconds', 'From the arrival of a request until its prompt is begun', SECONDS);
  readonly #request = this.#histogram('spkv_request_seconds', 'From the arrival of a request to its end', SECONDS);
  readonly #step = this.#histogram('spkv_step_seconds', 'One step of the model', SECONDS);
  readonly #batch = this.#histogram('spkv_batch_texts', 'Texts that a step writes a token of', TEXTS);
  readonly #http = new Counter({ name: 'spkv_http_requests_total', help: 'HTTP requests answered', labelNames: ['route', 'status'], registers: [this.registry] });

  /** Told of every step of the engine. */
  readonly onStep = ({ written, milliseconds }: StepRecord): void => {
    this.#step.observe(milliseconds / 1000);
    if (written > 0) this.#batch.observe(written);
  };

  /** Told of every request that has ended. */
  readonly onRequest = ({ begunAfter, firstTokenAfter, endedAfter, completionTokens, texts, outcome }: RequestRecord): void => {
    this.#request.observe(endedAfter / 1000);
    if (begunAfter !== undefined) this.#wait.observe(begunAfter / 1000);
    if (firstTokenAfter === undefined) return;
    this.#firstToken.observe(firstTokenAfter / 1000);
    if (outcome !== 'finished') return;
    this.#seconds += 0.1 * (endedAfter / 1000 - this.#seconds);
    const later = completionTokens / texts - 1;
    if (later > 0) this.#perToken.observe((endedAfter - firstTokenAfter) / 1000 / later);
  };

  /** Told of every HTTP request that has been answered. */
  answered(route: string, status: number): void {
    this.#http.inc({ route, status });
  }

  /** Whole seconds after which the queue should be shorter. */
  retryAfter({ requests, texts }: EngineStats): number {
    const running = Math.max(1, texts.reading + texts.writing);
    return Math.min(60, Math.max(1, Math.ceil((this.#seconds * requests.waiting) / running)));
  }

  close(): void {
    this.#delay.disable();
  }

  /** Gauges and counters of an engine. */
  watch(engine: Engine): void {
    this.#delay.enable();
    this.#watched(Gauge, 'spkv_event_loop_delay_seconds', 'Between two turns of a timer of 1 ms since the last time of asking', () => {
      const [median, high, max] = [this.#delay.percentile(50), this.#delay.percentile(99), this.#delay.max];
      this.#delay.reset();
      return { 0.5: median / 1e9, 0.99: high / 1e9, 1: max / 1e9 };
    }, 'quantile');
    const count = (name: string, help: string, value: (stats: EngineStats) => number | Record<string, number>, label = 'kind') =>
      this.#watched(Counter, `spkv_${name}_total`, help, () => value(engine.stats()), label);
    const gauge = (name: string, help: string, value: (stats: EngineStats) => number | Record<string, number>, label = 'state') =>
      this.#watched(Gauge, `spkv_${name}`, help, () => value(engine.stats()), label);
    gauge('requests_waiting', 'Requests that wait to be begun', ({ requests }) => requests.waiting);
    gauge('texts', 'Texts whose prompt is read, that are written, and whose reader is behind', ({ texts }) => ({ ...texts }));
    count('requests', 'Requests by how they ended', ({ requests: { finished, failed, refused } }) => ({ finished, failed, refused }), 'outcome');
    count('tokens', 'Tokens of prompts that were read or were in the cache, and tokens written', ({ tokens }) => ({ ...tokens }));
    count('device_seconds', 'Time in which the device computed', ({ steps }) => steps.deviceMilliseconds / 1000);
    gauge('pool_pages', 'Pages of the cache', ({ pool }) => ({ used: pool.usedPages, capacity: pool.capacityPages }));
    gauge('pool_page_bytes', 'Bytes of a page', ({ pool }) => pool.pageBytes);
    gauge('density', 'Kept pairs as a share of those that have left the window, over the texts that have ended', ({ density }) => density);
    count('preemptions', 'Texts that had to make room, by what became of their state', ({ preemptions }) => ({ ...preemptions }));
    count('prefix_hits', 'Requests that began with a state in the cache', ({ prefixes }) => prefixes.hits);
    count('prefix_misses', 'Requests that did not', ({ prefixes }) => prefixes.misses);
    gauge('prefix_states', 'States kept for later requests', ({ prefixes }) => prefixes.states);
    gauge('prefix_pages', 'Pages that they hold', ({ prefixes }) => prefixes.pages);
  }

  /** A metric whose values, one or one for each label, are asked for when they are wanted. */
  #watched(Kind: typeof Counter | typeof Gauge, name: string, help: string, read: () => number | Record<string, number>, label: string): void {
    const labelled = typeof read() === 'object';
    const metric = new Kind({
      name,
      help,
      labelNames: labelled ? [label] : [],
      registers: [],
      collect() {
        const value = read();
        this.reset();
        if (typeof value === 'number') this.inc(value);
        else for (const [key, part] of Object.entries(value)) this.inc({ [label]: key }, part);
      },
    });
    this.registry.registerMetric(metric);
  }

  #histogram(name: string, help: string, buckets: number[]): Histogram {
    return new Histogram({ name, help, buckets, registers: [this.registry] });
  }
}
