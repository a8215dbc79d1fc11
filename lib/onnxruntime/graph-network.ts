import type { Batch, Network, NetworkConfig, Step, StepMemory } from '../model/network.js';
import * as ops from '../ops.js';
import type { Device, KvCache, Tensor } from '../ops.js';
import { PairMemory } from './memory.js';
import type { GraphSession } from './native-session.js';

/** A model in one graph, in which attention is an operator of this library: onnxruntime runs it on the device's stream. */
export class GraphNetwork implements Network {
  readonly config: NetworkConfig;
  readonly dense: boolean;
  readonly cacheDtype = 'f32';
  readonly #device: Device;
  readonly #session: GraphSession;
  readonly #emptyLogits: boolean;

  /** `emptyLogits`: whether the graph can be asked for no logits at all. */
  constructor(device: Device, config: NetworkConfig, session: GraphSession, emptyLogits: boolean) {
    this.config = config;
    this.dense = config.spkv === undefined;
    this.#device = device;
    this.#session = session;
    this.#emptyLogits = emptyLogits;
  }

  createMemory(tokens: number): StepMemory {
    const memory = new PairMemory(this.#device, this.config, tokens);
    const unwanted = this.#emptyLogits ? null : this.#device.tensor('f32', [1, this.config.vocabSize]);
    return {
      tokens,
      take: (count) => this.#step(memory, unwanted, count),
      dispose: () => {
        memory.dispose();
        unwanted?.dispose();
      },
    };
  }

  #step(memory: PairMemory, unwanted: Tensor | null, tokens: number): Step {
    const step = memory.take(tokens);
    const { ids, positions, keys, values, utilities } = step;
    return {
      ids,
      positions,
      utilities,
      forward: (cache: KvCache, batch: Batch) => {
        const { slots, offsets } = batch;
        ops.positions(positions, cache, slots, offsets);
        const { vocabSize } = this.config;
        this.#session.run(step, cache, batch.logits || !unwanted ? batch : { ...batch, logits: unwanted }, vocabSize);
        ops.insert(cache, keys, values, utilities, slots, offsets, batch.logits);
      },
    };
  }

  dispose(): void {
    this.#session.dispose();
  }
}
