import type { TokenSet } from '../constrain/masks.js';
import { SpkvError } from '../errors.js';
import type { Network, StepMemory } from '../model/network.js';
import * as ops from '../ops.js';
import type { Graph, KvCache, Tensor } from '../ops.js';
import { penalised, seedsOf, settingsOf, TokenMask } from '../model/sampler.js';
import type { Choice } from './choice.js';

/**
 * The texts that are being written, on the device: row b of every tensor is for one text. Everything that differs
 * between texts is in tensors, so a step is captured once per number of rows, and rows change hands without a new
 * capture.
 */
export class Rows {
  readonly #network: Network;
  readonly #cache: KvCache;
  readonly #most: number;
  readonly #memory: StepMemory;
  readonly #ids: Tensor; //      [most] i32: what a step has drawn, and what the next one reads
  readonly #positions: Tensor; // [most] i32
  readonly #slots: Tensor; //    [most] i32
  readonly #offsets: Tensor; //  [most + 1] i32: 0, 1, 2, ...
  readonly #settings: Tensor; // [most, 7] see ops.sample
  readonly #seeds: Tensor; //    [most, 2] i32
  readonly #logits: Tensor; //   [most, V]
  #history: Tensor | undefined; // [most, V] i32: made for the first text with penalties
  #mask: TokenMask | undefined; // made for the first text with a constraint
  readonly #graphs = new Map<string, Graph>();
  #choices: readonly Choice[] = [];
  #boundSlots = new Int32Array(0);
  /** Whether some of them have penalties, or a constraint. */
  #penalised = false;
  #masked = false;
  /** Whose history each row has. */
  readonly #histories: (Choice | undefined)[] = [];
  /** What #ids has on the device, as far as that is known. */
  #next: ArrayLike<number> = [];

  /** `memory` has room for all rows. */
  constructor(network: Network, cache: KvCache, memory: StepMemory, most: number) {
    const { device } = cache;
    this.#network = network;
    this.#cache = cache;
    this.#memory = memory;
    this.#most = most;
    ({ ids: this.#ids, positions: this.#positions } = memory.take(most));
    this.#slots = device.tensor('i32', [most]);
    this.#offsets = device.from(Int32Array.from({ length: most + 1 }, (_, row) => row));
    this.#settings = device.tensor('f32', [most, 7]);
    this.#seeds = device.tensor('i32', [most, 2]);
    this.#logits = device.tensor('f32', [most, network.config.vocabSize]);
  }

  /** Enqueues what a step of these rows needs to know, as far as it is not there from the last one. */
  bind(choices: readonly Choice[]): void {
    const bound = (choice: Choice, row: number) => choice === this.#choices[row] && choice.sequence!.slot === this.#boundSlots[row];
    if (choices.length !== this.#choices.length || !choices.every(bound)) {
      const rows = (tensor: Tensor) => tensor.slice(0, 0, choices.length);
      const slots = Int32Array.from(choices, ({ sequence }) => sequence!.slot);
      const samplings = choices.map(({ sampling }) => sampling);
      rows(this.#slots).write(slots);
      rows(this.#settings).write(settingsOf(samplings));
      rows(this.#seeds).write(seedsOf(samplings));
      this.#choices = choices;
      this.#boundSlots = slots;
      this.#penalised = samplings.some(penalised);
      this.#masked = choices.some(({ progress }) => progress);
      this.#histories.length = this.#penalised ? choices.length : 0;
    }
    if (!this.#penalised) return;
    this.#history ??= this.#cache.device.tensor('i32', [this.#most, this.#network.config.vocabSize]);
    for (const [row, choice] of choices.entries()) {
      // While known tokens are read again, what is drawn is counted for nothing.
      if (!penalised(choice.sampling) || !choice.writing) this.#histories[row] = undefined;
      else if (this.#histories[row] !== choice) this.#writeHistory(row, choice);
    }
  }

  /**
   * Enqueues a step of the bound rows alone: reads their next tokens, and draws. What fails for one of them, which goes on
   * with a token that means nothing, is told in `failures`.
   */
  step(failures: Map<Choice, SpkvError>): void {
    const { length } = this.#choices;
    const known = ({ ids, read }: Choice, row: number) => ids[read] === this.#next[row];
    if (length !== this.#next.length || !this.#choices.every(known)) {
      this.ids(0, length).write(Int32Array.from(this.#choices, ({ ids, read }) => ids[read]!));
    }
    const masked = this.#masked;
    const history = this.#penalised;
    const key = masked ? String(length) : `${length} ${history}`;
    let graph = this.#graphs.get(key);
    if (!graph) {
      const slots = this.#slots.slice(0, 0, length);
      const offsets = this.#offsets.slice(0, 0, length + 1);
      const step = this.#memory.take(length);
      graph = this.#cache.device.capture(() => {
        step.forward(this.#cache, { slots, offsets, logits: this.logits(0, length) });
        if (!masked) this.#draw(0, length, history);
      });
      this.#graphs.set(key, graph);
    }
    graph.launch();
    if (masked) this.draw(0, length, failures);
  }

  /**
   * Enqueues the drawing of the tokens of rows [start, end), after the insertion: a refused step draws nothing. What
   * constraints allow is found now, while the device is at work.
   */
  draw(start: number, end: number, failures: Map<Choice, SpkvError>): void {
    if (this.#masked) {
      this.#mask ??= new TokenMask(this.#cache.device, this.#most, this.#network.config.vocabSize);
      this.#mask.write(this.#choices.map((choice) => allowedBy(choice, failures)));
    }
    this.#draw(start, end, this.#penalised);
  }

  #draw(start: number, end: number, history: boolean): void {
    const part = (tensor: Tensor) => tensor.slice(0, start, end);
    ops.sample(
      this.ids(start, end), this.logits(start, end), part(this.#settings), part(this.#seeds), part(this.#positions),
      history ? part(this.#history!) : null, this.#masked ? this.#mask!.rows(start, end) : null,
    );
  }

  /** The tokens that the last step has drawn for rows [start, end). */
  ids(start: number, end: number): Tensor {
    return this.#ids.slice(0, start, end);
  }

  /** Logits of rows [start, end), from which the last step drew. */
  logits(start: number, end: number): Tensor {
    return this.#logits.slice(0, start, end);
  }

  /** Tells which tokens the last step has left on the device as its rows' next ones. */
  drawn(ids: ArrayLike<number>): void {
    this.#next = ids;
  }

  /** The last step has failed. */
  failed(): void {
    this.#next = [];
    this.#mask?.doubt();
  }

  /** Bit 0: the prompt has the token; the rest counts it in what was written. */
  #writeHistory(row: number, choice: Choice): void {
    const { vocabSize } = this.#network.config;
    const history = new Int32Array(vocabSize);
    const prompt = choice.request.options.ids.length;
    for (const [i, id] of choice.ids.entries()) history[id] = i < prompt ? history[id]! | 1 : history[id]! + 2;
    this.#histories.forEach((other, i) => other === choice && (this.#histories[i] = undefined)); // it has moved on from there
    this.#histories[row] = choice;
    this.#history!.at(row).write(history);
  }

  dispose(): void {
    for (const graph of this.#graphs.values()) graph.dispose();
    for (const tensor of [this.#slots, this.#offsets, this.#settings, this.#seeds, this.#logits, this.#history, this.#mask]) tensor?.dispose();
  }
}

/** The tokens that may be drawn for a text; undefined: all, as where known tokens are read again and draws mean nothing. */
function allowedBy(choice: Choice, failures: Map<Choice, SpkvError>): TokenSet | undefined {
  if (choice.read < choice.ids.length - 1) return undefined;
  try {
    return choice.progress?.allowed();
  } catch (error) {
    if (!(error instanceof SpkvError)) throw error;
    failures.set(choice, error);
    return undefined;
  }
}
