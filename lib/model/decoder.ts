import { invalid } from '../check.js';
import { Progress } from '../constrain/constraint.js';
import { resolveSampling, type SamplingOptions } from '../sampling-options.js';
import type { Device, Graph, KvCache, Sequence, Tensor } from '../ops.js';
import { counted } from './counted.js';
import type { Network } from './network.js';
import { Sampler, TokenMask } from './sampler.js';

/** One sequence of a {@link Decoder}. */
export interface DecoderRow {
  sequence: Sequence;
  /** The token that the sequence reads next: the last one of the prompt. */
  next: number;
  sampling?: SamplingOptions;
  /** The prompt, where repetition penalties are to know it. */
  prompt?: ArrayLike<number>;
  /** Keeps the text within a constraint: from `constraint.begin()`. The decoder tells it the tokens that it draws. */
  progress?: Progress;
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
  readonly #positions: Tensor; // [B] i32
  readonly #sampler: Sampler;
  /** Where some row has a constraint. */
  readonly #mask: TokenMask | undefined;
  readonly #graph: Graph;
  readonly #owned: { dispose(): void }[];
  /** What kept a step from drawing after its tokens were read, so that there is none to read next. */
  #stuck: Error | undefined;

  /** @internal Use {@link Model.createDecoder}. */
  constructor(network: Network, cache: KvCache, rows: readonly DecoderRow[]) {
    const { device } = cache;
    const { vocabSize } = network.config;
    for (const { progress } of rows) {
      if (progress !== undefined && !(progress instanceof Progress)) throw invalid('constraint.begin()', 'progress', progress);
    }
    const sampler = new Sampler(device, rows.map(({ sampling }) => resolveSampling(sampling)), vocabSize);
    for (const [row, { prompt }] of rows.entries()) {
      if (!prompt) continue;
      using ids = device.from(Int32Array.from(prompt));
      sampler.recordPrompt(row, ids);
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
    this.#positions = step.positions;
    this.#sampler = sampler;
    this.#mask = rows.some(({ progress }) => progress) ? new TokenMask(device, rows.length, vocabSize) : undefined;
    this.#graph = device.capture(() => {
      step.forward(cache, { slots, offsets, logits });
      // After the insertion: a step that the pool refuses samples nothing and can be run again.
      if (!this.#mask) this.#sample();
    });
    this.#owned = [this.#graph, sampler, memory, slots, offsets, this.#logits, ...(this.#mask ? [this.#mask] : [])];
  }

  /**
   * Runs one step and resolves with the next token of every sequence. Either all sequences advance or, on an
   * error, none: after POOL_EXHAUSTED the step can be run again once pages are free. Errors: UNSUPPORTED where the
   * vocabulary cannot go on as a constraint asks; NON_FINITE where logits are no numbers. Where it is only the penalties
   * that make them so, the sequences have read their tokens, as their lengths say, and nothing has been drawn: the
   * decoder refuses further steps with the same error.
   */
  async step(): Promise<Int32Array> {
    if (this.#stuck) throw this.#stuck;
    const allowed = this.#rows.map(({ progress }) => progress?.allowed());
    const before = this.#rows.map(({ sequence }) => sequence.length);
    const growths = this.#rows.map(({ sequence }) => ({ sequence, tokens: 1 }));
    const run = counted(this.#device, growths, () => {
      this.#graph.launch();
      if (this.#mask) {
        this.#mask.write(allowed);
        this.#sample(this.#mask.rows(0, this.#rows.length));
      }
      return this.#ids.read() as Promise<Int32Array>;
    });
    const ids = await run.catch((error: unknown) => {
      this.#mask?.doubt();
      if (this.#rows.some(({ sequence }, row) => sequence.length > before[row]!)) this.#stuck = error as Error;
      throw error;
    });
    for (const [row, { progress }] of this.#rows.entries()) progress?.accept(ids[row]!);
    return ids;
  }

  #sample(mask: Tensor | null = null): void {
    this.#sampler.sample(this.#ids, this.#logits, this.#positions, mask);
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
