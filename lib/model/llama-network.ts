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
        if (!logits) return;
        const [count] = logits.shape;
        if (!rows) return project(this.llama, logits, a.normed.slice(0, 0, count!));
        using hidden = logits.device.tensor(a.normed.dtype, [count!, this.config.hiddenSize]);
        ops.embedding(hidden, rows, a.normed);
        project(this.llama, logits, hidden);
      },
    };
  }
}
