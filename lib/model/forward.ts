import type { ModelConfig } from '../checkpoint/config.js';
import * as ops from '../ops.js';
import type { KvCache, Tensor } from '../ops.js';
import type { Activations } from './activations.js';
import type { Batch } from './network.js';
import type { ModelWeights } from './weights.js';

/** What does not change between steps. */
export interface Llama {
  config: ModelConfig;
  weights: ModelWeights;
  /** [D/2], see rope.ts */
  inverseFrequencies: Tensor;
}

/**
 * Enqueues one step over the cache: from a.ids to the normalised hidden states in a.normed [T, C], and the new pairs,
 * which `ops.insert` adds to the cache when all else has gone well. Prefill chunks and decode steps alike.
 */
export function forward(llama: Llama, a: Activations, cache: KvCache, { slots, offsets }: Pick<Batch, 'slots' | 'offsets'>): void {
  const scale = 1 / Math.sqrt(llama.config.headDim);
  ops.positions(a.positions, cache, slots, offsets);
  runLayers(llama, a, false, (layer) => {
    const { keys, values, utilities } = a.layers[layer]!;
    ops.attention(a.contextHeads, a.q, keys, values, utilities, cache, layer, slots, offsets, scale);
  });
}

/**
 * The same without a cache, over whole sequences, in the form that training uses: gates are added to the
 * scores as log utilities ('soft'), or all open ('dense'). Positions come from a.positions.
 */
export function forwardGated(llama: Llama, a: Activations, offsets: Tensor, mode: 'soft' | 'dense'): void {
  const { headDim, spkv } = llama.config;
  const scale = 1 / Math.sqrt(headDim);
  runLayers(llama, a, true, (layer) => {
    const { keys, values, utilities } = a.layers[layer]!;
    const gates = mode === 'soft' ? utilities : null;
    ops.gatedAttention(a.contextHeads, null, a.q, keys, values, gates, offsets, spkv?.window ?? 1, scale);
  });
}

/** Logits [n, V] of hidden states [n, C]. */
export function project(llama: Llama, logits: Tensor, hidden: Tensor): void {
  ops.matmul(logits, hidden, llama.weights.head);
}

function runLayers({ config, weights, inverseFrequencies }: Llama, a: Activations, logUtilities: boolean, attend: (layer: number) => void): void {
  const epsilon = config.rmsNormEps;
  ops.rotaryAngles(a.angles, a.positions, inverseFrequencies);
  ops.embedding(a.x, a.ids, weights.embedding);
  for (const [index, layer] of weights.layers.entries()) {
    const { keys, values, utilities } = a.layers[index]!;
    ops.rmsNorm(a.normed, a.x, layer.inputNorm, epsilon);
    ops.matmul(a.qkv, a.normed, layer.qkv, layer.qkvBias);
    const norms = { q: layer.qNorm, k: layer.kNorm, epsilon };
    ops.preparePairs(a.q, keys, values, utilities, a.qkv, a.angles, norms, layer.predictor, logUtilities);
    attend(index);
    ops.matmul(a.x, a.context, layer.out, layer.outBias, true);

    ops.rmsNorm(a.normed, a.x, layer.postNorm, epsilon);
    ops.matmul(a.gateUp, a.normed, layer.gateUp, layer.gateUpBias);
    ops.siluMul(a.activated, a.gate, a.up);
    ops.matmul(a.x, a.activated, layer.down, layer.downBias, true);
  }
  ops.rmsNorm(a.normed, a.x, weights.finalNorm, epsilon);
}
