import type { Batch, Network, NetworkConfig, Step, StepMemory } from '../model/network.js';
import * as ops from '../ops.js';
import type { Device, KvCache, Tensor } from '../ops.js';
import { PairMemory } from './memory.js';
import type { PartsProcess } from './native-session.js';

/** A model in parts, which another process runs; attention between them is this library's. */
export class PartsNetwork implements Network {
  readonly config: NetworkConfig;
  readonly dense: boolean;
  readonly cacheDtype = 'f32';
  readonly #device: Device;
  readonly #process: PartsProcess;

  constructor(device: Device, config: NetworkConfig, process: PartsProcess) {
    this.config = config;
    this.dense = config.spkv === undefined;
    this.#device = device;
    this.#process = process;
  }

  createMemory(tokens: number): StepMemory {
    const { heads, headDim, hiddenSize } = this.config;
    const pairs = new PairMemory(this.#device, this.config, tokens);
    const rows = (width: number) => this.#device.tensor('f32', [tokens, width]);
    const order = this.#device.from(Int32Array.from({ length: tokens }, (_, i) => i));
    const between = { residual: rows(hiddenSize), query: rows(heads * headDim), context: rows(heads * headDim), order };
    return {
      tokens,
      take: (count) => this.#step(pairs, between, count),
      dispose: () => {
        pairs.dispose();
        for (const tensor of Object.values(between)) tensor.dispose();
      },
    };
  }

  #step(pairs: PairMemory, between: Record<'residual' | 'query' | 'context' | 'order', Tensor>, tokens: number): Step {
    const { ids, positions, keys, values, utilities } = pairs.take(tokens);
    const part = (tensor: Tensor) => tensor.slice(0, 0, tokens);
    const { layers, heads, headDim } = this.config;
    const [residual, query, context] = [part(between.residual), part(between.query), part(between.context)];
    const forward = (cache: KvCache, { slots, offsets, logits, rows }: Batch): void => {
      const scale = 1 / Math.sqrt(headDim);
      ops.positions(positions, cache, slots, offsets);
      for (let layer = 0; layer < layers; layer++) {
        const [k, v, u] = [keys.at(layer), values.at(layer), utilities?.at(layer) ?? null];
        // The inputs are gone before the outputs come: the residual stream is both.
        const inputs = layer === 0 ? [ids, positions] : [context, residual, positions];
        this.#process.run(layer, tokens, 0, [residual, query, k, v, ...(u ? [u] : [])], inputs);
        ops.attention(context.split(heads), query.split(heads), k, v, u, cache, layer, slots, offsets, scale);
      }
      if (logits) {
        const count = logits.shape[0]!;
        this.#process.run(layers, tokens, count, [logits], [context, residual, rows ?? between.order.slice(0, 0, count)]);
      }
      ops.insert(cache, keys, values, utilities, slots, offsets, logits);
    };
    return { ids, positions, utilities, forward };
  }

  dispose(): void {
    this.#process.dispose();
  }
}
