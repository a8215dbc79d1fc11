import * as ops from '../ops.js';
import type { Device, Tensor } from '../ops.js';
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

  /** out [B] i32 = the successors of the tokens at positions [B], from logits [B, V]. */
  sample(out: Tensor, logits: Tensor, positions: Tensor): void {
    ops.sample(out, logits, this.#settings, this.#seeds, positions, this.#history);
  }

  dispose(): void {
    this.#settings.dispose();
    this.#seeds.dispose();
    this.#history?.dispose();
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
