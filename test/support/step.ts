// Steps of the cache with random pairs, without a model around them.
import type { Device, KvCache, KvCacheOptions, Sequence, Tensor } from '../../lib/ops.js';
import * as ops from '../../lib/ops.js';
import { normals, random } from './device.js';

/** Adds `tokens` random pairs to one sequence at a time; half of them have a utility above 0.5. */
export class Stepper {
  readonly #slots: Tensor;
  readonly #offsets: Tensor;
  readonly #keys: Tensor;
  readonly #utilities: Tensor;
  readonly #q: Tensor;
  readonly #out: Tensor;
  readonly #cache: KvCache;
  readonly #layers: number;
  readonly #tokens: number;

  constructor(device: Device, cache: KvCache, { layers, kvHeads, headDim }: KvCacheOptions, tokens: number) {
    const uniform = random(3);
    this.#cache = cache;
    this.#layers = layers;
    this.#tokens = tokens;
    this.#slots = device.tensor('i32', [1]);
    this.#offsets = device.from(Int32Array.of(0, tokens));
    this.#keys = device.from(normals(layers * tokens * kvHeads * headDim, uniform), [layers, tokens, kvHeads, headDim]);
    this.#utilities = device.from(Float32Array.from({ length: layers * tokens * kvHeads }, uniform), [layers, tokens, kvHeads]);
    this.#q = device.from(normals(tokens * kvHeads * headDim, uniform), [tokens, kvHeads, headDim]);
    this.#out = device.tensor('f32', [tokens, kvHeads, headDim]);
  }

  /** Enqueues one step: attention of every layer, then the insertion. */
  step(sequence: Sequence): void {
    this.#slots.write(Int32Array.of(sequence.slot));
    for (let layer = 0; layer < this.#layers; layer++) {
      const keys = this.#keys.at(layer);
      const utilities = this.#utilities.at(layer);
      ops.attention(this.#out, this.#q, keys, keys, utilities, this.#cache, layer, this.#slots, this.#offsets, 0.2);
      keys.dispose();
      utilities.dispose();
    }
    ops.insert(this.#cache, this.#keys, this.#keys, this.#utilities, this.#slots, this.#offsets);
    sequence.advance(this.#tokens);
  }

  dispose(): void {
    for (const tensor of [this.#slots, this.#offsets, this.#keys, this.#utilities, this.#q, this.#out]) tensor.dispose();
  }
}
