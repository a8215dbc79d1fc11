import { totalmem } from 'node:os';
import { abortSignal, callback, invalid, number, oneOf, options } from '../check.js';
import { SpkvError } from '../errors.js';
import * as ops from '../ops.js';
import type { Device, KvCache, Sequence, Tensor } from '../ops.js';
import { counted, withPositions } from './counted.js';
import { Decoder, type DecoderRow } from './decoder.js';
import { type CheckedOptions, DEFAULT_CHUNK } from './load.js';
import type { Batch, Network, NetworkConfig, Step, StepMemory } from './network.js';
import { checkTokenIds } from './token-ids.js';

/** Ring of a model without predictors, which keeps everything anyway. */
const DENSE_WINDOW = 128;
/** Most logits that exist at a time while a text is scored. */
const SCORED_LOGITS = 1 << 26;

/** New tokens of one sequence in a step. */
export interface StepInput {
  sequence: Sequence;
  ids: ArrayLike<number>;
}

/** How a long text is read; all optional. */
export interface PrefillOptions {
  /** Told the tokens done and to do after every chunk. */
  onProgress?: (done: number, total: number) => void;
  /** Ends the reading with its reason; the sequence's length says how far it has come. */
  signal?: AbortSignal;
}

/** Where a network came from. */
export interface NetworkFiles {
  readonly dir: string;
  /** Bytes of all weights. */
  readonly bytes: number;
}

/** A model on a device, at the level of token ids. */
export class Model implements Disposable {
  readonly checkpoint: NetworkFiles;
  readonly config: NetworkConfig;
  readonly device: Device;
  readonly cache: KvCache;
  /** True without predictors: every pair is kept. */
  readonly dense: boolean;
  readonly chunk: number;
  /** @internal */
  readonly network: Network;
  readonly #ownsDevice: boolean;
  #memory: StepMemory | undefined;

  /** @internal Use loadModel. */
  constructor(checkpoint: NetworkFiles, device: Device, network: Network, given: CheckedOptions) {
    this.checkpoint = checkpoint;
    this.config = network.config;
    this.device = device;
    this.#ownsDevice = given.device !== device;
    this.dense = network.dense;
    this.chunk = given.chunk;
    this.network = network;
    this.cache = this.#createCache(given);
  }

  /** The default threshold of this model's sequences. */
  get threshold(): number {
    return this.config.spkv?.threshold ?? 0;
  }

  /** A new, empty sequence. `threshold` (τ) may differ from sequence to sequence; 0 keeps everything. */
  async createSequence(opts?: { threshold?: number }): Promise<Sequence> {
    const { threshold = this.threshold } = options(opts, 'sequence options', ['threshold']);
    return this.cache.createSequence({ threshold: number(threshold, 'threshold', 0, 2) });
  }

  /** Reads a prompt into a sequence, in chunks. Resolves with the logits [V] after its last token. Errors: those of {@link step}. */
  async prefill(sequence: Sequence, ids: ArrayLike<number>, opts?: PrefillOptions): Promise<Float32Array> {
    const { onProgress, signal } = checkedPrefill(opts);
    this.#checkIds(ids, 'ids');
    let logits: Float32Array | undefined;
    for (const { start, piece } of this.#pieces(ids)) {
      [logits] = await this.step([{ sequence, ids: piece }], signal);
      onProgress?.(start + piece.length, ids.length);
    }
    return logits!;
  }

  /**
   * One step of any mixture of prompts and single tokens: reads the new tokens of each sequence, and resolves
   * with the logits [V] after the last of each. Either all sequences advance or, on an error, none; where `signal` comes
   * too late to stop the step, it rejects all the same, and their lengths say that they have advanced. Errors:
   * INVALID_ARGUMENT, OUT_OF_RANGE, POOL_EXHAUSTED; NON_FINITE, naming the sequence and the positions at which keys, values,
   * utilities or logits are no numbers.
   */
  async step(inputs: readonly StepInput[], signal?: AbortSignal): Promise<Float32Array[]> {
    this.#checkInputs(inputs);
    using logits = this.device.tensor('f32', [inputs.length, this.config.vocabSize]);
    const flat = await this.#run(inputs, 'last', logits, logits, signal);
    const { vocabSize } = this.config;
    return inputs.map((_, row) => flat.subarray(row * vocabSize, (row + 1) * vocabSize));
  }

  /** Like {@link step} for one sequence of n new tokens, with the logits [n, V] after every one of them. */
  async stepAll(sequence: Sequence, ids: ArrayLike<number>, signal?: AbortSignal): Promise<Float32Array> {
    const inputs = [{ sequence, ids }];
    this.#checkInputs(inputs);
    using logits = this.device.tensor('f32', [ids.length, this.config.vocabSize]);
    return await this.#run(inputs, 'all', logits, logits, signal);
  }

  /**
   * Reads `ids` into a sequence and resolves with the log-probability of every token given those before it, in
   * nats: [n], 0 for the first, whose predecessor is unknown. Errors: those of {@link step}; the sequence has read what
   * its length says.
   */
  async score(sequence: Sequence, ids: ArrayLike<number>, opts?: PrefillOptions): Promise<Float32Array> {
    const { onProgress, signal } = checkedPrefill(opts);
    this.#checkIds(ids, 'ids');
    const result = new Float32Array(ids.length);
    const most = Math.max(1, Math.floor(SCORED_LOGITS / this.config.vocabSize));
    for (const { start, piece } of this.#pieces(ids, Math.min(this.chunk, most))) {
      const next = Array.prototype.slice.call(ids, start + 1, start + 1 + piece.length) as number[];
      const scores = await this.#scoreChunk(sequence, piece, next, signal);
      result.set(scores.subarray(0, next.length), start + 1);
      onProgress?.(start + piece.length, ids.length);
    }
    return result;
  }

  /**
   * The predicted utilities of a text read through the cache at one threshold: [layers, n, kvHeads]. Empty for a
   * model without predictors.
   */
  async utilities(ids: ArrayLike<number>, opts?: { threshold?: number }): Promise<Float32Array> {
    const { threshold = this.threshold } = options(opts, 'utilities options', ['threshold']);
    this.#checkIds(ids, 'ids');
    if (this.dense) return new Float32Array(0);
    const { layers, kvHeads } = this.config;
    const sequence = await this.createSequence({ threshold });
    const result = new Float32Array(layers * ids.length * kvHeads);
    try {
      for (const { start, piece } of this.#pieces(ids)) {
        const utilities = await this.device.submit(() => this.#enqueue([{ sequence, ids: piece }]).utilities!.read() as Promise<Float32Array>);
        const width = piece.length * kvHeads;
        for (let layer = 0; layer < layers; layer++) {
          result.set(utilities.subarray(layer * width, (layer + 1) * width), (layer * ids.length + start) * kvHeads);
        }
      }
    } finally {
      await sequence.dispose();
    }
    return result;
  }

  async #scoreChunk(sequence: Sequence, ids: number[], next: number[], signal?: AbortSignal): Promise<Float32Array> {
    const inputs = [{ sequence, ids }];
    this.#checkInputs(inputs);
    using targets = this.device.from(Int32Array.from(ids, (_, i) => next[i] ?? -1));
    using scores = this.device.tensor('f32', [ids.length]);
    using logits = this.device.tensor('f32', [ids.length, this.config.vocabSize]);
    return await this.#run(inputs, 'all', logits, scores, signal, () => ops.logProbabilities(scores, logits, targets));
  }

  /** Runs a step with the logits after the last token of each input or after all of them, and `then` what makes `result` of them. */
  async #run(
    inputs: readonly StepInput[], after: 'last' | 'all', logits: Tensor, result: Tensor, signal?: AbortSignal, then?: () => void,
  ): Promise<Float32Array> {
    const growths = inputs.map(({ sequence, ids }) => ({ sequence, tokens: ids.length }));
    const body = (): Promise<Float32Array> => {
      let end = 0;
      using rows = after === 'last' ? this.device.from(Int32Array.from(inputs, ({ ids }) => (end += ids.length) - 1)) : undefined;
      this.#enqueue(inputs, { logits, ...(rows && { rows }) });
      then?.();
      return result.read() as Promise<Float32Array>;
    };
    try {
      return await counted(this.device, growths, body, signal);
    } catch (error) {
      throw await withPositions(error, growths, logits);
    }
  }

  /**
   * Decodes sequences together, token by token. Every row names the token that its sequence reads first: the
   * last one of the prompt, which `prefill` has not been given.
   */
  createDecoder(rows: readonly DecoderRow[]): Decoder {
    if (!Array.isArray(rows) || rows.length === 0) throw invalid('at least one row', 'rows', rows);
    for (const [index, row] of rows.entries()) {
      const { sequence, next } = options(row, `rows[${index}]`, ['sequence', 'next', 'sampling', 'prompt', 'progress']) as DecoderRow;
      this.#checkSequence(sequence, `rows[${index}].sequence`);
      this.#checkIds([next], `rows[${index}].next`);
    }
    return new Decoder(this.network, this.cache, rows);
  }

  /**
   * Logits [n, V] of a whole text without the cache, in the form that training uses: gates added to the scores
   * as log utilities ('soft'), or all open ('dense').
   */
  async gatedLogits(ids: ArrayLike<number>, mode: 'soft' | 'dense' = 'soft'): Promise<Float32Array> {
    this.#checkIds(ids, 'ids');
    oneOf(mode, 'mode', ['soft', 'dense']);
    if (mode === 'soft' && this.dense) throw new SpkvError('UNSUPPORTED', 'A model without predictors has no soft gates');
    const { network } = this;
    if (!network.forwardGated) throw new SpkvError('UNSUPPORTED', 'An exported graph has attention through the cache only');
    using logits = this.device.tensor('f32', [ids.length, this.config.vocabSize]);
    return await this.device.submit(() => {
      network.forwardGated!(logits, Int32Array.from(ids), mode);
      return logits.read() as Promise<Float32Array>;
    });
  }

  /** Enqueues a step. No awaiting happens here, so steps of several callers never mix. */
  #enqueue(inputs: readonly StepInput[], wanted: Pick<Batch, 'logits' | 'rows'> = {}): Step {
    const offsets = [0];
    for (const { ids } of inputs) offsets.push(offsets.at(-1)! + ids.length);
    const tokens = offsets.at(-1)!;
    if (!this.#memory || this.#memory.tokens < tokens) {
      this.#memory?.dispose();
      this.#memory = this.network.createMemory(Math.max(tokens, Math.min(this.chunk, DEFAULT_CHUNK)));
    }
    const step = this.#memory.take(tokens);
    step.ids.write(Int32Array.from(inputs.flatMap(({ ids }) => Array.from(ids))));
    using slots = this.device.from(Int32Array.from(inputs, ({ sequence }) => sequence.slot));
    using starts = this.device.from(Int32Array.from(offsets));
    step.forward(this.cache, { slots, offsets: starts, ...wanted });
    return step;
  }

  #checkInputs(inputs: readonly StepInput[]): void {
    if (!Array.isArray(inputs) || inputs.length === 0) throw invalid('at least one input', 'inputs', inputs);
    for (const [index, input] of inputs.entries()) {
      const { sequence, ids } = options(input, `inputs[${index}]`, ['sequence', 'ids']) as StepInput;
      this.#checkIds(ids, `inputs[${index}].ids`);
      this.#checkSequence(sequence, `inputs[${index}].sequence`);
    }
  }

  /** The chunks in which a text is read. */
  *#pieces(ids: ArrayLike<number>, size = this.chunk): Generator<{ start: number; piece: number[] }> {
    for (let start = 0; start < ids.length; start += size) {
      yield { start, piece: Array.prototype.slice.call(ids, start, start + size) as number[] };
    }
  }

  #checkSequence(sequence: Sequence | undefined, name: string): void {
    if (sequence?.cache !== this.cache) throw new SpkvError('INVALID_ARGUMENT', `${name} belongs to another model`);
  }

  #checkIds(ids: ArrayLike<number>, name: string): void {
    checkTokenIds(ids, name, this.config.vocabSize);
  }

  #createCache({ cacheDtype, slack, kvMemory = defaultKvMemory(this.device) }: CheckedOptions): KvCache {
    const { layers, kvHeads, headDim, spkv } = this.config;
    const dtype = cacheDtype === 'auto' ? this.network.cacheDtype : cacheDtype;
    const window = spkv?.window ?? DENSE_WINDOW;
    const pageBytes = this.device.pageBytes(headDim, dtype);
    const capacityPages = Math.min(2 ** 31 - 1, Math.floor(kvMemory / pageBytes));
    const least = layers * kvHeads * Math.ceil((window + slack) / ops.PAGE_TOKENS);
    if (capacityPages < least) {
      throw new SpkvError('INVALID_ARGUMENT', `Expected at least ${least * pageBytes} bytes for kvMemory, the window of one sequence, but received ${kvMemory}`);
    }
    return this.device.createCache({ layers, kvHeads, headDim, window, slack, dtype, capacityPages });
  }

  /** Frees cache and weights, and closes the device unless it was given. */
  dispose(): void {
    this.#memory?.dispose();
    this.#memory = undefined;
    this.cache.dispose();
    this.network.dispose();
    if (this.#ownsDevice) this.device.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

function checkedPrefill(opts: PrefillOptions | undefined): PrefillOptions {
  const given = options(opts, 'prefill options', ['onProgress', 'signal']);
  callback(given.onProgress, 'onProgress');
  abortSignal(given.signal, 'signal');
  return given;
}

/** See {@link ModelOptions.kvMemory}. The tenth that is left of a GPU is for activations. */
function defaultKvMemory({ freeMemory }: Device): number {
  return freeMemory === null ? Math.floor(totalmem() / 4) : Math.floor(freeMemory * 0.9);
}
