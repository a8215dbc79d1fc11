import { resolveSampling, type SamplingOptions } from '../sampling-options.js';
import type { Device, Graph, KvCache, Sequence, Tensor } from '../ops.js';
import type { Network } from './network.js';
import { Sampler } from './sampler.js';

/** One sequence of a {@link Decoder}. */
export interface DecoderRow {
  sequence: Sequence;
  /** The token that the sequence reads next: the last one of the prompt. */
  next: number;
  sampling?: SamplingOptions;
  /** The prompt, where repetition penalties are to know it. */
  prompt?: ArrayLike<number>;
}

/**
 * Decodes a fixed batch of sequences token by token. The step is captured once; each further step is one call,
 * since the sampled ids of one step are the input of the next without leaving the device.
 */
export class Decoder implements Disposable {
  readonly #device: Device;
  readonly #rows: readonly DecoderRow[];
  readonly #ids: Tensor; // [B] i32: the output of the last step, the input of the next
  readonly #logits: Tensor; // [B, V]
  readonly #graph: Graph;
  readonly #owned: { dispose(): void }[];

  /** @internal Use {@link Model.createDecoder}. */
  constructor(network: Network, cache: KvCache, rows: readonly DecoderRow[]) {
    const { device } = cache;
    const { vocabSize } = network.config;
    const sampler = new Sampler(device, rows.map(({ sampling }) => resolveSampling(sampling)), vocabSize);
    for (const [row, { prompt }] of rows.entries()) {
      if (prompt) sampler.recordPrompt(row, device.from(Int32Array.from(prompt)));
    }
    const memory = network.createMemory(rows.length);
    const step = memory.take(rows.length);
    const slots = device.from(Int32Array.from(rows, ({ sequence }) => sequence.slot));
    const offsets = device.from(Int32Array.from({ length: rows.length + 1 }, (_, row) => row));
    this.#device = device;
    this.#rows = rows;
    this.#ids = step.ids;
    this.#ids.write(Int32Array.from(rows, ({ next }) => next));
    const logits = (this.#logits = device.tensor('f32', [rows.length, vocabSize]));
    this.#graph = device.capture(() => {
      step.forward(cache, { slots, offsets, logits });
      // After the insertion: a step that the pool refuses samples nothing and can be run again.
      sampler.sample(this.#ids, logits, step.positions);
    });
    this.#owned = [sampler, memory, slots, offsets, this.#logits];
  }

  /**
   * Runs one step and resolves with the next token of every sequence. Either all sequences advance or, on an
   * error, none: after POOL_EXHAUSTED the step can be run again once pages are free.
   */
  async step(): Promise<Int32Array> {
    const ids = await this.#device.submit(() => {
      this.#graph.launch();
      return this.#ids.read() as Promise<Int32Array>;
    });
    for (const { sequence } of this.#rows) sequence.advance(1);
    return ids;
  }

  /** The logits [B, V] from which the last step drew. */
  async logits(): Promise<Float32Array> {
    return (await this.#logits.read()) as Float32Array;
  }

  dispose(): void {
    for (const tensor of this.#owned) tensor.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
