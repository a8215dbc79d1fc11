import * as ops from '../ops.js';
import type { Device, Tensor } from '../ops.js';
import type { ResolvedSampling } from '../sampling-options.js';

/** The sampling state of B rows on the device: settings, seeds and, where penalties need it, histories. */
export class Sampler {
  readonly #settings: Tensor;
  readonly #seeds: Tensor;
  readonly #history: Tensor | null;

  constructor(device: Device, rows: readonly ResolvedSampling[], vocabSize: number) {
    const settings = rows.map((row) => [
      row.temperature, row.topK, row.topP, row.minP, row.repetitionPenalty, row.frequencyPenalty, row.presencePenalty,
    ]);
    this.#settings = device.from(Float32Array.from(settings.flat()), [rows.length, 7]);
    const seeds = rows.flatMap(({ seed }) => [seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0]);
    this.#seeds = device.from(Int32Array.from(seeds), [rows.length, 2]);
    const penalised = rows.some((row) => row.repetitionPenalty !== 1 || row.frequencyPenalty !== 0 || row.presencePenalty !== 0);
    this.#history = penalised ? device.tensor('i32', [rows.length, vocabSize]) : null;
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
