import type { ModelConfig } from '../checkpoint/config.js';
import { boolean, integer, invalid, number, options } from '../check.js';
import { SpkvError } from '../errors.js';
import { inverseFrequencies } from '../model/rope.js';
import * as ops from '../ops.js';
import type { Device, Tensor } from '../ops.js';
import { defaultLogitRows, TrainingMemory } from './activations.js';
import { backward, lossAndHead } from './backward.js';
import { forward, type Pass, type TrainingMode } from './forward.js';
import { Optimizer, type UpdateOptions } from './optimizer.js';
import { Buckets } from './parallel/buckets.js';
import type { Reduction } from './parallel/reduction.js';
import type { Parameters } from './parameters.js';

export type { TrainingMode } from './forward.js';
export type { UpdateOptions } from './optimizer.js';

export interface TrainingStepOptions {
  /** Most tokens of a micro-batch: for so many there is memory. */
  tokens: number;
  /** Tokens that every query sees whatever their utility. Defaults to the config's. */
  window?: number;
  /** Makes activations anew in the backward pass instead of keeping them: a third more work, far less memory. Defaults to false. */
  recompute?: boolean;
  /** Tokens whose logits exist at a time. Defaults to as many as make about 2^24 logits in f32, 2^27 in bf16. */
  logitRows?: number;
  /** Utilities from which pairs are counted as kept, see {@link BatchResult.kept}. Defaults to the config's threshold alone. */
  thresholds?: readonly number[];
  /** Adds so much times the mean utility, over layers, heads and tokens, to the loss that is learned. Defaults to 0. */
  densityWeight?: number;
  /** With which gradients are summed over the ranks of a data-parallel run. Defaults to nothing: this process is alone. */
  reduction?: Reduction;
}

export interface AccumulateOptions {
  signal?: AbortSignal;
  /** This is the last micro-batch before the update: gradients are summed over the ranks while they are made. Defaults to true. */
  last?: boolean;
}

/** Documents packed one after another: document b has the tokens offsets[b] to offsets[b + 1] of ids. */
export interface Batch {
  ids: Int32Array;
  /** The token that follows each of ids; a negative one is not learned. */
  targets: Int32Array;
  offsets: Int32Array;
}

export interface BatchResult {
  /** Mean cross-entropy of the targets, in nats. */
  loss: number;
  /** Targets that count. */
  tokens: number;
  /** For each layer, KV head and threshold [L, G, N]: pairs older than the window whose utility reaches it. Null without predictors. */
  kept: Int32Array | null;
  /** Pairs of one layer and head that are older than the window of some query. */
  pairs: number;
  /** Share of them, for each layer and KV head [L, G], that the first threshold keeps; 1 where there are none. */
  density: Float64Array | null;
}

/** Micro-batches whose gradients are added up for one update. */
interface Round {
  begun: boolean;
  /** Their targets. */
  tokens: number;
}

const OPTIONS = ['tokens', 'window', 'recompute', 'logitRows', 'thresholds', 'densityWeight', 'reduction'] as const;

/**
 * One step of training: `accumulate` adds the gradients of a micro-batch, as often as wanted, and `update` changes the
 * weights by them. Everything runs on the device's stream; only the results are waited for.
 */
export class TrainingStep implements Disposable {
  readonly device: Device;
  readonly config: ModelConfig;
  readonly parameters: Parameters;
  readonly optimizer: Optimizer;
  readonly window: number;
  readonly recompute: boolean;
  readonly thresholds: readonly number[];
  readonly #memory: TrainingMemory;
  readonly #frequencies: Tensor; // [D/2]
  readonly #thresholds: Tensor; //  [N]
  readonly #counts: Tensor; //      [L, G, N] i32
  readonly #lossSum: Tensor; //     [1]
  readonly #penalty: Tensor | null; // [G, G]
  readonly #reduction: Reduction | undefined;
  readonly #buckets: Buckets | undefined;
  #round: Round = { begun: false, tokens: 0 };

  constructor(parameters: Parameters, opts: TrainingStepOptions) {
    const given = options(opts, 'training step options', OPTIONS);
    const { config, device } = parameters;
    const { layers, kvHeads, vocabSize, spkv } = config;
    const tokens = integer(given.tokens, 'tokens', 1, 2 ** 24);
    const logitRows = integer(given.logitRows ?? defaultLogitRows(vocabSize, tokens, device.precision), 'logitRows', 1);
    this.device = device;
    this.config = config;
    this.parameters = parameters;
    this.window = integer(given.window ?? spkv?.window ?? 1, 'window', 1, 2 ** 20);
    this.recompute = boolean(given.recompute ?? false, 'recompute');
    this.thresholds = (given.thresholds ?? [spkv?.threshold ?? 0.5]).map((value, i) => number(value, `thresholds[${i}]`, 0, 1));
    this.optimizer = new Optimizer(parameters);
    this.#memory = new TrainingMemory(device, config, tokens, Math.min(tokens, logitRows), this.recompute);
    this.#frequencies = device.from(inverseFrequencies(config));
    this.#thresholds = device.from(Float32Array.from(this.thresholds));
    this.#counts = device.tensor('i32', [layers, kvHeads, this.thresholds.length]);
    this.#lossSum = device.tensor('f32', [1]);
    const densityWeight = number(given.densityWeight ?? 0, 'densityWeight', 0);
    this.#penalty = densityWeight > 0 ? device.from(diagonal(kvHeads, densityWeight / (layers * kvHeads)), [kvHeads, kvHeads]) : null;
    this.#reduction = given.reduction;
    this.#buckets = given.reduction && new Buckets(parameters.layout, parameters.gradients, given.reduction);
  }

  /** Updates done so far. */
  get steps(): number {
    return this.optimizer.steps;
  }

  /**
   * Forward and backward pass of a micro-batch; its gradients are added to those since the last update, as if all
   * had been one batch. The next may be begun before this one has ended, so that the device need not wait. When it fails
   * or is cancelled, all gradients since the last update are given up.
   * Errors: INVALID_ARGUMENT, OUT_OF_RANGE, NON_FINITE naming the step and the layer, the reason of `signal`.
   */
  async accumulate(batch: Batch, mode: TrainingMode, { signal, last = true }: AccumulateOptions = {}): Promise<BatchResult> {
    const round = this.#round;
    const first = !round.begun;
    round.begun = true;
    try {
      const result = await this.#run(batch, mode, signal, (pass) => {
        if (first) ops.fill(this.parameters.gradients, 0);
        backward(pass, this.parameters.gradientsOf, this.recompute, last ? (block) => this.#buckets?.completed(block) : undefined);
      });
      round.tokens += result.tokens;
      return result;
    } catch (error) {
      if (this.#round === round) this.#round = { begun: false, tokens: 0 };
      throw error;
    }
  }

  /** The loss of a micro-batch, and what would be kept; gradients stay as they are. Errors as those of {@link accumulate}. */
  async evaluate(batch: Batch, mode: TrainingMode, { signal }: { signal?: AbortSignal } = {}): Promise<BatchResult> {
    return this.#run(batch, mode, signal, (pass) => lossAndHead(pass, null));
  }

  /**
   * Changes the weights by the gradients that were accumulated, which count once. `tokens`, by which they are divided,
   * are the targets of all ranks. Resolves with their norm before clipping. Errors: INVALID_ARGUMENT; NON_FINITE, naming
   * the step and the layer, with the weights as they were.
   */
  async update(opts: UpdateOptions, tokens: number = this.#round.tokens): Promise<{ gradientNorm: number }> {
    if (tokens === 0) throw new SpkvError('INVALID_ARGUMENT', 'Expected accumulate() before update(): there are no gradients');
    this.#round = { begun: false, tokens: 0 };
    await this.#reduction?.join();
    return this.optimizer.update(tokens, opts);
  }

  async #run(batch: Batch, mode: TrainingMode, signal: AbortSignal | undefined, learn: (pass: Pass) => void): Promise<BatchResult> {
    const { ids, targets, offsets } = checkBatch(batch, this.#memory.tokens);
    if (mode !== 'dense' && this.config.spkv === undefined) throw new SpkvError('UNSUPPORTED', 'A model without predictors trains in mode "dense" only');
    using boundaries = this.device.from(offsets);
    const running = this.device.submit(async () => {
      this.#counts.write(new Int32Array(this.#counts.size));
      ops.fill(this.#lossSum, 0);
      const pass = this.#forward(batch, mode, boundaries);
      learn(pass);
      ops.columnSums(this.#lossSum, pass.activations.passing.losses.view([ids.length, 1], [1, 1], 0));
      return Promise.all([this.#lossSum.read(), this.#counts.read()]);
    }, signal);
    const tokens = countTargets(targets); // while the device computes
    const [[lossSum], kept] = await running;
    if (!Number.isFinite(lossSum)) throw await this.#notFinite(batch, mode, boundaries);
    return { loss: lossSum! / Math.max(1, tokens), tokens, ...this.#density(kept as Int32Array, offsets) };
  }

  /** Enqueues the forward pass. */
  #forward({ ids, targets, offsets }: Batch, mode: TrainingMode, boundaries: Tensor): Pass {
    const activations = this.#memory.take(ids.length);
    const { passing } = activations;
    passing.ids.write(ids);
    passing.targets.write(targets);
    passing.positions.write(positionsOf(offsets));
    const pass: Pass = {
      config: this.config, weights: this.parameters.weights, inverseFrequencies: this.#frequencies, activations,
      offsets: boundaries, window: this.window, mode, kept: { counts: this.#counts, thresholds: this.#thresholds }, penalty: this.#penalty,
    };
    forward(pass);
    return pass;
  }

  #density(counts: Int32Array, offsets: Int32Array): Pick<BatchResult, 'kept' | 'pairs' | 'density'> {
    let pairs = 0;
    for (let b = 0; b + 1 < offsets.length; b++) pairs += Math.max(0, offsets[b + 1]! - offsets[b]! - this.window);
    if (this.config.spkv === undefined) return { kept: null, pairs, density: null };
    const step = this.thresholds.length;
    const density = Float64Array.from({ length: counts.length / step }, (_, list) => (pairs === 0 ? 1 : counts[list * step]! / pairs));
    return { kept: counts, pairs, density };
  }

  /** Names the first layer whose output is not finite, in a forward pass of its own: another one may have begun meanwhile. */
  async #notFinite(batch: Batch, mode: TrainingMode, boundaries: Tensor): Promise<SpkvError> {
    using squares = this.device.tensor('f32', [this.config.layers + 1]);
    const sums = await this.device.submit(async () => {
      const { layers, passing } = this.#forward(batch, mode, boundaries).activations;
      for (const [index, x] of [...layers.map((layer) => layer.x), passing.final].entries()) ops.squaredNorm(squares.slice(0, index, index + 1), x.view([1, x.size], [x.size, 1], 0));
      return squares.readFloats();
    });
    const first = sums.findIndex((square) => !Number.isFinite(square));
    const where = first < 0 ? 'the logits are not' : first === 0 ? 'the embedding is not' : `the output of layer ${first - 1} is not`;
    return new SpkvError('NON_FINITE', `Step ${this.steps + 1}: the loss is not finite, since ${where}; the weights are as they were`);
  }

  /** Frees the memory of the step; the parameters stay. */
  dispose(): void {
    this.#memory.dispose();
    this.optimizer.dispose();
    this.#buckets?.dispose();
    for (const tensor of [this.#frequencies, this.#thresholds, this.#counts, this.#lossSum, this.#penalty]) tensor?.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

function checkBatch(batch: Batch, most: number): Batch {
  const { ids, targets, offsets } = batch;
  for (const [name, value] of Object.entries({ ids, targets, offsets })) {
    if (!(value instanceof Int32Array)) throw invalid('an Int32Array', name, value);
  }
  if (ids.length < 1 || ids.length > most) throw invalid(`1 to ${most} tokens`, 'ids', ids.length);
  if (targets.length !== ids.length) throw invalid(`as many as ids, ${ids.length}`, 'targets', targets.length);
  const rising = offsets.length >= 2 && offsets.every((offset, b) => b === 0 || offset >= offsets[b - 1]!);
  if (!rising || offsets[0] !== 0 || offsets.at(-1) !== ids.length) {
    throw invalid(`offsets that rise from 0 to ${ids.length}`, 'offsets', `[${offsets.subarray(0, 8).join(', ')}${offsets.length > 8 ? ', ...' : ''}]`);
  }
  return { ids, targets, offsets };
}

/** A square matrix with `value` on its diagonal. */
function diagonal(size: number, value: number): Float32Array {
  return Float32Array.from({ length: size * size }, (_, i) => (i % (size + 1) === 0 ? value : 0));
}

function countTargets(targets: Int32Array): number {
  let count = 0;
  for (let i = 0; i < targets.length; i++) if (targets[i]! >= 0) count++;
  return count;
}

/** Every document begins at position 0. The device waits for this: a document's positions are copied from one before it. */
function positionsOf(offsets: Int32Array): Int32Array {
  const positions = new Int32Array(offsets.at(-1)!);
  let known = 0; // positions of the longest document so far, at its start
  let longest = 0;
  for (let b = 0; b + 1 < offsets.length; b++) {
    const start = offsets[b]!;
    const length = offsets[b + 1]! - start;
    positions.copyWithin(start, longest, longest + Math.min(length, known));
    for (let i = known; i < length; i++) positions[start + i] = i;
    if (length > known) [known, longest] = [length, start];
  }
  return positions;
}
