import type { Batch, Network, NetworkConfig, Step, StepMemory } from '../model/network.js';
import * as ops from '../ops.js';
import type { Device, KvCache } from '../ops.js';
import { PairMemory } from './memory.js';
import type { GraphSession } from './native-session.js';

/** A model in one graph, in which attention is an operator of this library: onnxruntime runs it on the device's stream. */
export class GraphNetwork implements Network {
  readonly config: NetworkConfig;
  readonly dense: boolean;
  readonly cacheDtype = 'f32';
  readonly #device: Device;
  readonly #session: GraphSession;

  constructor(device: Device, config: NetworkConfig, session: GraphSession) {
    this.config = config;
    this.dense = config.spkv === undefined;
    this.#device = device;
    this.#session = session;
  }

  createMemory(tokens: number): StepMemory {
    const memory = new PairMemory(this.#device, this.config, tokens);
    return { tokens, take: (count) => this.#step(memory, count), dispose: () => memory.dispose() };
  }

  #step(memory: PairMemory, tokens: number): Step {
    const step = memory.take(tokens);
    const { ids, positions, keys, values, utilities } = step;
    return {
      ids,
      positions,
      utilities,
      forward: (cache: KvCache, batch: Batch) => {
        const { slots, offsets } = batch;
        ops.positions(positions, cache, slots, offsets);
        this.#session.run(step, cache, batch, this.config.vocabSize);
        ops.insert(cache, keys, values, utilities, slots, offsets);
      },
    };
  }

  dispose(): void {
    this.#session.dispose();
  }
}
