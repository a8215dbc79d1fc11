import { totalmem } from 'node:os';
import { type Checkpoint, openCheckpoint } from '../checkpoint/checkpoint.js';
import type { ModelConfig } from '../checkpoint/config.js';
import { abortSignal, callback, integer, invalid, number, oneOf, options } from '../check.js';
import { SpkvError } from '../errors.js';
import * as ops from '../ops.js';
import { Device, type DeviceOptions, type KvCache, openDevice, type Sequence, type Tensor } from '../ops.js';
import { type Activations, ActivationMemory } from './activations.js';
import { Decoder, type DecoderRow } from './decoder.js';
import { forward, forwardGated, type Network, project } from './forward.js';
import { inverseFrequencies } from './rope.js';
import { checkTokenIds } from './token-ids.js';
import { disposeWeights, loadWeights, type ModelWeights } from './weights.js';

export interface ModelOptions extends DeviceOptions {
  /** 'auto', 'cpu', 'cuda:0' (see {@link openDevice}), or a device that is open already. Defaults to 'auto'. */
  device?: string | Device;
  /** Storage of keys and values. Defaults to the element type of the weights. */
  cacheDtype?: 'auto' | ops.CacheDType;
  /**
   * Bytes of the cache pool. On the CPU it may grow so far: a quarter of the system's memory unless told otherwise,
   * taken as it fills. On a GPU it is taken at once: nine tenths of what the weights have left free.
   */
  kvMemory?: number;
  /** Tokens that a sequence can be rewound, see {@link Sequence.rewind}. Defaults to 0. */
  slack?: number;
  /** Tokens per prefill step. Defaults to 512. */
  chunk?: number;
  /** Told the share of the weights that is loaded, 0 to 1. */
  onProgress?: (share: number) => void;
  /** Told once of what is worth knowing: no predictors, tensors that nothing reads, a GPU that cannot be used. Defaults to nobody. */
  onWarning?: (message: string) => void;
  signal?: AbortSignal;
}

const OPTION_NAMES = [
  'device', 'threads', 'pin', 'instructions', 'precision', 'cacheDtype', 'kvMemory', 'slack', 'chunk', 'onProgress', 'onWarning', 'signal',
] as const;
/** Ring of a model without predictors, which keeps everything anyway. */
const DENSE_WINDOW = 128;
const DEFAULT_CHUNK = 512;
/** Rows of logits that exist at a time while a whole text is scored. */
const LOGIT_ROWS = 64;

/** New tokens of one sequence in a step. */
export interface StepInput {
  sequence: Sequence;
  ids: ArrayLike<number>;
}

export interface PrefillOptions {
  /** Told the tokens done and to do after every chunk. */
  onProgress?: (done: number, total: number) => void;
  signal?: AbortSignal;
}

/** {@link ModelOptions}, checked, with the defaults that do not depend on the model filled in. */
export type CheckedOptions = ModelOptions & Required<Pick<ModelOptions, 'cacheDtype' | 'slack' | 'chunk'>>;

/** All values are checked before anything is loaded. */
function checked(opts: ModelOptions | undefined): CheckedOptions {
  const given = options(opts, 'model options', OPTION_NAMES);
  if (given.kvMemory !== undefined) integer(given.kvMemory, 'kvMemory', 1);
  callback(given.onProgress, 'onProgress');
  callback(given.onWarning, 'onWarning');
  abortSignal(given.signal, 'signal');
  return {
    ...given,
    cacheDtype: oneOf(given.cacheDtype ?? 'auto', 'cacheDtype', ['auto', ...ops.CACHE_DTYPES]),
    slack: integer(given.slack ?? 0, 'slack', 0, 1 << 20),
    chunk: integer(given.chunk ?? DEFAULT_CHUNK, 'chunk', 1, 1 << 16),
  };
}

/** Opens a checkpoint directory and brings its weights to the device: what {@link Model} is made of. */
export async function loadNetwork(
  dir: string, opts?: ModelOptions,
): Promise<{ checkpoint: Checkpoint; device: Device; weights: ModelWeights; options: CheckedOptions }> {
  const given = checked(opts);
  given.signal?.throwIfAborted();
  const checkpoint = await openCheckpoint(dir);
  const device = openGiven(given);
  const weights = await loadWeights(checkpoint, device, given.onProgress, given.signal).catch((error: unknown) => {
    if (device !== given.device) device.dispose();
    throw error;
  });
  if (weights.dense) given.onWarning?.(`${dir} has no utility predictors: it runs dense, every pair is kept`);
  const unread = checkpoint.unread();
  if (unread.length > 0) given.onWarning?.(`${dir}: nothing reads ${unread.length} tensors: ${list(unread)}`);
  return { checkpoint, device, weights, options: given };
}

function openGiven(given: CheckedOptions): Device {
  const { threads, pin, instructions, precision, onWarning } = given;
  if (given.device instanceof Device) {
    const unfit = Object.entries({ threads, pin, instructions, precision }).find(([, value]) => value !== undefined);
    if (unfit) throw new SpkvError('INVALID_ARGUMENT', `Expected no option "${unfit[0]}" for a device that is open already`);
    return given.device;
  }
  return openDevice(given.device ?? 'auto', {
    ...(threads === undefined ? {} : { threads }),
    ...(pin === undefined ? {} : { pin }),
    ...(instructions === undefined ? {} : { instructions }),
    ...(precision === undefined ? {} : { precision }),
    ...(onWarning === undefined ? {} : { onWarning }),
  });
}

/** A model on a device, at the level of token ids. */
export class Model implements Disposable {
  readonly checkpoint: Checkpoint;
  readonly config: ModelConfig;
  readonly device: Device;
  readonly cache: KvCache;
  /** True when the checkpoint has no predictors. */
  readonly dense: boolean;
  readonly chunk: number;
  /** @internal */
  readonly network: Network;
  readonly #ownsDevice: boolean;
  #memory: ActivationMemory | undefined;

  /** @internal Use loadModel. */
  constructor(checkpoint: Checkpoint, device: Device, weights: ModelWeights, given: CheckedOptions) {
    const { config } = checkpoint;
    this.checkpoint = checkpoint;
    this.config = config;
    this.device = device;
    this.#ownsDevice = given.device !== device;
    this.dense = weights.dense;
    this.chunk = given.chunk;
    this.network = { config, weights, inverseFrequencies: device.from(inverseFrequencies(config)) };
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

  /** Reads a prompt into a sequence, in chunks. Resolves with the logits [V] after its last token. */
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
   * with the logits [V] after the last of each. Either all sequences advance or, on an error, none.
   */
  async step(inputs: readonly StepInput[], signal?: AbortSignal): Promise<Float32Array[]> {
    this.#checkInputs(inputs);
    using logits = this.device.tensor('f32', [inputs.length, this.config.vocabSize]);
    const flat = await this.device.submit(() => {
      const { a, last } = this.#enqueue(inputs);
      const gathered = this.device.tensor(a.normed.dtype, [inputs.length, this.config.hiddenSize]);
      ops.embedding(gathered, last, a.normed);
      project(this.network, logits, gathered);
      gathered.dispose();
      return logits.read() as Promise<Float32Array>;
    }, signal);
    for (const { sequence, ids } of inputs) sequence.advance(ids.length);
    const { vocabSize } = this.config;
    return inputs.map((_, row) => flat.subarray(row * vocabSize, (row + 1) * vocabSize));
  }

  /** Like {@link step} for one sequence, with the logits [n, V] after every new token. */
  async stepAll(sequence: Sequence, ids: ArrayLike<number>, signal?: AbortSignal): Promise<Float32Array> {
    this.#checkInputs([{ sequence, ids }]);
    using logits = this.device.tensor('f32', [ids.length, this.config.vocabSize]);
    const flat = await this.device.submit(() => {
      const { a } = this.#enqueue([{ sequence, ids }]);
      project(this.network, logits, a.normed);
      return logits.read() as Promise<Float32Array>;
    }, signal);
    sequence.advance(ids.length);
    return flat;
  }

  /**
   * Reads `ids` into a sequence and resolves with the log-probability of every token given those before it, in
   * nats: [n], 0 for the first, whose predecessor is unknown. Logits exist for a few rows at a time.
   */
  async score(sequence: Sequence, ids: ArrayLike<number>, opts?: PrefillOptions): Promise<Float32Array> {
    const { onProgress, signal } = checkedPrefill(opts);
    this.#checkIds(ids, 'ids');
    const result = new Float32Array(ids.length);
    for (const { start, piece } of this.#pieces(ids)) {
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
        const utilities = await this.device.submit(() => this.#enqueue([{ sequence, ids: piece }]).a.utilities!.read() as Promise<Float32Array>);
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
    this.#checkInputs([{ sequence, ids }]);
    using targets = this.device.from(Int32Array.from(ids, (_, i) => next[i] ?? -1));
    using scores = this.device.tensor('f32', [ids.length]);
    using logits = this.device.tensor('f32', [Math.min(LOGIT_ROWS, ids.length), this.config.vocabSize]);
    const result = await this.device.submit(() => {
      const { a } = this.#enqueue([{ sequence, ids }]);
      for (let start = 0; start < ids.length; start += LOGIT_ROWS) {
        const end = Math.min(ids.length, start + LOGIT_ROWS);
        const rows = logits.slice(0, 0, end - start);
        project(this.network, rows, a.normed.slice(0, start, end));
        ops.logProbabilities(scores.slice(0, start, end), rows, targets.slice(0, start, end));
      }
      return scores.read() as Promise<Float32Array>;
    }, signal);
    sequence.advance(ids.length);
    return result;
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
    const memory = new ActivationMemory(this.device, this.config, this.network.weights, ids.length, true);
    try {
      using offsets = this.device.from(Int32Array.of(0, ids.length));
      using logits = this.device.tensor('f32', [ids.length, this.config.vocabSize]);
      return await this.device.submit(() => {
        const a = memory.take(ids.length);
        a.ids.write(Int32Array.from(ids));
        a.positions.write(Int32Array.from(ids, (_, i) => i));
        forwardGated(this.network, a, offsets, mode);
        project(this.network, logits, a.normed);
        return logits.read() as Promise<Float32Array>;
      });
    } finally {
      memory.dispose();
    }
  }

  /** Enqueues a step up to the hidden states. No awaiting happens here, so steps of several callers never mix. */
  #enqueue(inputs: readonly StepInput[]): { a: Activations; last: Tensor } {
    const offsets = [0];
    for (const { ids } of inputs) offsets.push(offsets.at(-1)! + ids.length);
    const tokens = offsets.at(-1)!;
    if (!this.#memory || this.#memory.tokens < tokens) {
      this.#memory = new ActivationMemory(this.device, this.config, this.network.weights, Math.max(tokens, Math.min(this.chunk, DEFAULT_CHUNK)));
    }
    const a = this.#memory.take(tokens);
    a.ids.write(Int32Array.from(inputs.flatMap(({ ids }) => Array.from(ids))));
    const slots = this.device.from(Int32Array.from(inputs, ({ sequence }) => sequence.slot));
    forward(this.network, a, this.cache, { slots, offsets: this.device.from(Int32Array.from(offsets)) });
    return { a, last: this.device.from(Int32Array.from(inputs, (_, row) => offsets[row + 1]! - 1)) };
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
  *#pieces(ids: ArrayLike<number>): Generator<{ start: number; piece: number[] }> {
    for (let start = 0; start < ids.length; start += this.chunk) {
      yield { start, piece: Array.prototype.slice.call(ids, start, start + this.chunk) as number[] };
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
    const dtype = cacheDtype === 'auto' ? (this.network.weights.embedding.dtype === 'bf16' ? 'bf16' : 'f32') : cacheDtype;
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
    disposeWeights(this.network.weights);
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

function list(names: readonly string[]): string {
  return names.length > 5 ? `${names.slice(0, 5).join(', ')}, ...` : names.join(', ');
}
