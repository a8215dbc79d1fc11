import type { LlamaNetwork } from '../model/llama-network.js';
import type { KvCache } from '../ops.js';
import { THRESHOLD } from './geometries.js';

/** So far from all logits that a gate is open, or closed, whatever comes. */
const ALWAYS = 1e4;

/**
 * Moves every predictor's bias so that list i of [L, G] keeps the share densities[i] of the text `ids`, which is read into
 * the cache for it and forgotten again. What the biases were before does not matter.
 */
export async function calibrate(
  network: LlamaNetwork, cache: KvCache, ids: Int32Array, densities: Float32Array, signal?: AbortSignal,
): Promise<void> {
  signal?.throwIfAborted();
  const { weights, config: { kvHeads } } = network.llama;
  for (const { predictor } of weights.layers) predictor!.bias.write(new Float32Array(kvHeads));
  const utilities = await utilitiesOf(network, cache, ids);
  for (const [layer, { predictor }] of weights.layers.entries()) {
    const bias = Float32Array.from({ length: kvHeads }, (_, head) => {
      const density = densities[layer * kvHeads + head]!;
      if (density <= 0) return -ALWAYS;
      if (density >= 1) return ALWAYS;
      const logits = Float32Array.from(ids, (_id, row) => {
        const utility = utilities[(layer * ids.length + row) * kvHeads + head]!;
        return Math.log(utility / (1 - utility));
      }).sort();
      return -logits[Math.min(ids.length - 1, Math.floor((1 - density) * ids.length))]!;
    });
    predictor!.bias.write(bias);
  }
}

/** [L, T, G] */
async function utilitiesOf(network: LlamaNetwork, cache: KvCache, ids: Int32Array): Promise<Float32Array> {
  const { device } = cache;
  const memory = network.createMemory(ids.length);
  const sequence = await cache.createSequence({ threshold: THRESHOLD });
  try {
    const step = memory.take(ids.length);
    step.ids.write(ids);
    using slots = device.from(Int32Array.of(sequence.slot));
    using offsets = device.from(Int32Array.of(0, ids.length));
    step.forward(cache, { slots, offsets });
    return await step.utilities!.readFloats();
  } finally {
    await sequence.dispose();
    memory.dispose();
  }
}
