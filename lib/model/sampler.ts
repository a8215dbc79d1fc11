import * as ops from '../ops.js';
import type { Device, Tensor } from '../ops.js';
import { type TokenSet, writeBits } from '../constrain/masks.js';
import type { ResolvedSampling } from '../sampling-options.js';

/** The sampling state of B rows on the device: settings, seeds and, where penalties need it, histories. */
export class Sampler {
  readonly #settings: Tensor;
  readonly #seeds: Tensor;
  readonly #history: Tensor | null;

  constructor(device: Device, rows: readonly ResolvedSampling[], vocabSize: number) {
    this.#settings = device.from(settingsOf(rows), [rows.length, 7]);
    this.#seeds = device.from(seedsOf(rows), [rows.length, 2]);
    this.#history = rows.some(penalised) ? device.tensor('i32', [rows.length, vocabSize]) : null;
  }

  /** Tells a row's penalties which tokens the prompt has. */
  recordPrompt(row: number, ids: Tensor): void {
    if (this.#history) ops.recordPrompt(this.#history.at(row), ids);
  }

  /** out [B] i32 = the successors of the tokens at positions [B], from logits [B, V], among those that a mask allows. */
  sample(out: Tensor, logits: Tensor, positions: Tensor, mask: Tensor | null = null): void {
    ops.sample(out, logits, this.#settings, this.#seeds, positions, this.#history, mask);
  }

  dispose(): void {
    this.#settings.dispose();
    this.#seeds.dispose();
    this.#history?.dispose();
  }
}

const UNKNOWN = Symbol('unknown');

/** Which tokens may be drawn for each of `most` rows, on the device. */
export class TokenMask {
  readonly #device: Tensor; // [most, ceil(V / 32)] i32
  readonly #host: Int32Array; // the same, row by row
  readonly #words: number;
  /** What each row has; undefined: all tokens. */
  readonly #rows: (TokenSet | typeof UNKNOWN | undefined)[];

  constructor(device: Device, most: number, vocabSize: number) {
    this.#words = Math.ceil(vocabSize / 32);
    this.#device = device.tensor('i32', [most, this.#words]);
    this.#host = new Int32Array(most * this.#words).fill(-1);
    this.#rows = Array.from({ length: most }, () => undefined);
    this.#device.write(this.#host);
  }

  /** Enqueues what the first rows allow, as far as it is not there already. */
  write(allowed: readonly (TokenSet | undefined)[]): void {
    let changed = false;
    for (const [row, set] of allowed.entries()) {
      if (set === this.#rows[row]) continue;
      const words = this.#host.subarray(row * this.#words, (row + 1) * this.#words);
      if (set) writeBits(words, set);
      else words.fill(-1);
      this.#rows[row] = set;
      changed = true;
    }
    if (changed) this.rows(0, allowed.length).write(this.#host.subarray(0, allowed.length * this.#words));
  }

  /** A step has failed: what was to be written may not have been. */
  doubt(): void {
    this.#rows.fill(UNKNOWN);
  }

  /** Of rows [start, end). */
  rows(start: number, end: number): Tensor {
    return this.#device.slice(0, start, end);
  }

  dispose(): void {
    this.#device.dispose();
  }
}

/** [B, 7], as `ops.sample` wants them. */
export function settingsOf(rows: readonly ResolvedSampling[]): Float32Array {
  const settings = rows.flatMap((row) => [
    row.temperature, row.topK, row.topP, row.minP, row.repetitionPenalty, row.frequencyPenalty, row.presencePenalty,
  ]);
  return Float32Array.from(settings);
}

/** [B, 2]: low and high half. */
export function seedsOf(rows: readonly ResolvedSampling[]): Int32Array {
  return Int32Array.from(rows.flatMap(({ seed }) => [seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0]));
}

/** Whether a row needs a history. */
export function penalised(row: ResolvedSampling): boolean {
  return row.repetitionPenalty !== 1 || row.frequencyPenalty !== 0 || row.presencePenalty !== 0;
}
