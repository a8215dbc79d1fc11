import type { ModelConfig } from '../checkpoint/config.js';
import * as ops from '../ops.js';
import type { KvCache, Tensor } from '../ops.js';
import { type Activations, ActivationMemory } from './activations.js';
import { forward, forwardGated, type Llama, project } from './forward.js';
import type { Batch, Network, Step, StepMemory } from './network.js';
import { disposeWeights } from './weights.js';

/** A network of this library's own operations, on any device. */
export class LlamaNetwork implements Network {
  readonly config: ModelConfig;
  readonly dense: boolean;
  readonly cacheDtype: 'f32' | 'bf16';
  /** @internal */
  readonly llama: Llama;

  constructor(llama: Llama) {
    this.config = llama.config;
    this.dense = llama.weights.dense;
    this.cacheDtype = llama.weights.embedding.dtype === 'bf16' ? 'bf16' : 'f32';
    this.llama = llama;
  }

  createMemory(tokens: number): StepMemory {
    const memory = this.#activations(tokens);
    return {
      tokens,
      take: (count) => this.#step(memory.take(count)),
      dispose: () => memory.dispose(),
    };
  }

  forwardGated(logits: Tensor, ids: Int32Array, mode: 'soft' | 'dense'): void {
    const { device } = logits;
    const memory = this.#activations(ids.length, true);
    using offsets = device.from(Int32Array.of(0, ids.length));
    const a = memory.take(ids.length);
    a.ids.write(ids);
    a.positions.write(ids.map((_, i) => i));
    forwardGated(this.llama, a, offsets, mode);
    project(this.llama, logits, a.normed);
    memory.dispose(); // work in flight keeps what it needs
  }

  dispose(): void {
    disposeWeights(this.llama.weights);
    this.llama.inverseFrequencies.dispose();
  }

  #activations(tokens: number, gated = false): ActivationMemory {
    const { config, weights } = this.llama;
    return new ActivationMemory(weights.embedding.device, config, weights, tokens, gated);
  }

  #step(a: Activations): Step {
    return {
      ids: a.ids,
      positions: a.positions,
      utilities: a.utilities,
      forward: (cache: KvCache, { slots, offsets, logits, rows }: Batch) => {
        forward(this.llama, a, cache, { slots, offsets });
        if (logits) this.#project(logits, a.normed, rows);
        ops.insert(cache, a.keys, a.values, a.utilities, slots, offsets, logits);
      },
    };
  }

  /** Logits [N, V] of the tokens `rows` [N] of hidden states [T, C], or of the first N. */
  #project(logits: Tensor, states: Tensor, rows: Tensor | undefined): void {
    const count = logits.shape[0]!;
    using hidden = rows ? logits.device.tensor(states.dtype, [count, this.config.hiddenSize]) : states.slice(0, 0, count);
    if (rows) ops.embedding(hidden, rows, states);
    project(this.llama, logits, hidden);
  }
}
