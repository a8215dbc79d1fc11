import type { Batch } from './batch.js';
import type { ParkingStats } from './parking.js';
import type { PrefixStats } from './prefixes.js';
import type { Request, RequestTiming } from './request.js';

/** One step, for whoever keeps histograms. Times in milliseconds. */
export interface StepRecord {
  /** Texts that got a token. */
  written: number;
  /** Prompt tokens that were read. */
  read: number;
  milliseconds: number;
  /** Of these, those in which the device computed. */
  deviceMilliseconds: number;
}

/** One request that has ended. */
export interface RequestRecord extends RequestTiming {
  outcome: 'finished' | 'failed';
  /** Of a failed one. */
  error: unknown;
  promptTokens: number;
  cachedTokens: number;
  completionTokens: number;
  /** Texts that were asked for. */
  texts: number;
  client: string;
}

/** The engine at one moment. Counts are since its start. */
export interface EngineStats {
  requests: { waiting: number; finished: number; failed: number; refused: number };
  /** Texts that have a place: whose prompt is read, that are written, and whose reader is behind. */
  texts: { reading: number; writing: number; paused: number };
  tokens: { read: number; cached: number; written: number };
  steps: { count: number; milliseconds: number; deviceMilliseconds: number };
  /** Sums of milliseconds, to be divided by their counts. */
  latency: { firstToken: number; firstTokens: number; perToken: number; laterTokens: number };
  pool: { usedPages: number; capacityPages: number; pageBytes: number };
  /** Kept pairs as a share of those that have left the window, over the texts that have ended; 1 while there is none. */
  density: number;
  preemptions: ParkingStats;
  prefixes: PrefixStats;
}

/** Counts what happens. */
export class Counters {
  readonly requests = { finished: 0, failed: 0, refused: 0 };
  readonly tokens = { read: 0, cached: 0, written: 0 };
  readonly steps = { count: 0, milliseconds: 0, deviceMilliseconds: 0 };
  readonly latency = { firstToken: 0, firstTokens: 0, perToken: 0, laterTokens: 0 };
  readonly #pairs = { kept: 0, left: 0 };

  get density(): number {
    return this.#pairs.left === 0 ? 1 : this.#pairs.kept / this.#pairs.left;
  }

  pairs({ kept, left }: { kept: number; left: number }): void {
    this.#pairs.kept += kept;
    this.#pairs.left += left;
  }

  step(batch: Batch, milliseconds: number, deviceMilliseconds: number): StepRecord {
    const read = batch.pieces.reduce((sum, { ids }) => sum + ids.length, 0);
    // A text that reads again what it had to give up gets tokens that it knows.
    const written = batch.rows.filter((choice) => choice.read === choice.ids.length && !batch.failures.has(choice)).length;
    const record = { written, read, milliseconds, deviceMilliseconds };
    this.tokens.read += read;
    this.tokens.written += written;
    this.steps.count++;
    this.steps.milliseconds += milliseconds;
    this.steps.deviceMilliseconds += deviceMilliseconds;
    return record;
  }

  request(request: Request): RequestRecord {
    const { timing, options, choices, cachedTokens } = request;
    const completionTokens = choices.reduce((sum, { tokens }) => sum + tokens.length, 0);
    this.requests[request.failed ? 'failed' : 'finished']++;
    this.tokens.cached += cachedTokens;
    if (timing.firstTokenAfter !== undefined) {
      this.latency.firstToken += timing.firstTokenAfter;
      this.latency.firstTokens++;
      const later = Math.max(0, ...choices.map(({ tokens }) => tokens.length - 1));
      this.latency.perToken += later > 0 ? timing.endedAfter - timing.firstTokenAfter : 0;
      this.latency.laterTokens += later;
    }
    return {
      ...timing, outcome: request.failed ? 'failed' : 'finished', error: request.error, promptTokens: options.ids.length, cachedTokens,
      completionTokens, texts: options.n, client: options.client,
    };
  }
}
