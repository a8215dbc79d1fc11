import type { ModelConfig } from '../checkpoint/config.js';
import type { LayerWeights, ModelWeights } from '../model/weights.js';
import * as ops from '../ops.js';
import type { Tensor } from '../ops.js';
import type { Activations, LayerActivations, Passing } from './activations.js';

/**
 * How old keys are gated: not at all; by log u, through which the predictor learns; or on the way from there (alpha 0)
 * to what inference does (alpha 1), the predictor left as it is.
 */
export type TrainingMode = 'dense' | 'soft' | { readonly alpha: number; readonly threshold: number };

/** What a pass over one micro-batch works with. */
export interface Pass {
  config: ModelConfig;
  weights: ModelWeights;
  inverseFrequencies: Tensor; // [D/2]
  activations: Activations;
  offsets: Tensor; // [B + 1] i32: where documents begin and end
  window: number;
  mode: TrainingMode;
  /** What utilities would be kept, for each layer; null where nobody asks. */
  kept: { counts: Tensor /* [L, G, N] i32 */; thresholds: Tensor /* [N] */ } | null;
  /** [G, G], on its diagonal what a utility of 1 adds to the loss; null where utilities are free. */
  penalty: Tensor | null;
}

/** Enqueues the forward pass: from passing.ids and positions to passing.final, keeping what the backward pass needs. */
export function forward(pass: Pass): void {
  const { activations: { layers, passing }, weights } = pass;
  ops.rotaryAngles(passing.angles, passing.positions, pass.inverseFrequencies);
  ops.embedding(layers[0]!.x, passing.ids, weights.embedding);
  for (const [index, layer] of layers.entries()) {
    forwardLayer(pass, index);
    if (pass.kept && layer.hidden) countKept(pass, index);
    forwardEnd(weights.layers[index]!, layer, passing, layers[index + 1]?.x ?? passing.final);
  }
}

/** Everything of a layer that its backward pass needs, from its x. */
export function forwardLayer({ config, weights, activations, offsets, window, mode }: Pass, index: number): void {
  const { rmsNormEps: epsilon, headDim } = config;
  const { passing } = activations;
  const a = activations.layers[index]!;
  const w = weights.layers[index]!;
  ops.rmsNorm(passing.normed, a.x, w.inputNorm, epsilon);
  ops.matmul(a.qkv, passing.normed, w.qkv, w.qkvBias);
  if (a.raw) {
    ops.rmsNorm(a.q, a.raw.q, w.qNorm!, epsilon);
    ops.rmsNorm(a.k, a.raw.k, w.kNorm!, epsilon);
  }
  ops.rope(a.qk, a.qk, passing.angles);
  const gated = mode !== 'dense' && w.predictor;
  if (gated) ops.predictUtility(a.gates!, a.hidden!, w.predictor!.weight, w.predictor!.bias, mode === 'soft' ? 'log' : mode);
  ops.gatedAttention(a.contextHeads, a.logSumExp, a.q, a.k, a.v, gated ? a.gates : null, offsets, window, 1 / Math.sqrt(headDim));
  ops.matmul(a.middle, a.context, w.out, w.outBias, a.x);
  ops.rmsNorm(passing.normed, a.middle, w.postNorm, epsilon);
  ops.matmul(a.gateUp, passing.normed, w.gateUp, w.gateUpBias);
}

/** The end of a layer, which the backward pass does not need: to the residual stream behind it. */
function forwardEnd(w: LayerWeights, a: LayerActivations, { activated }: Passing, out: Tensor): void {
  ops.siluMul(activated, a.gate, a.up);
  ops.matmul(out, activated, w.down, w.downBias, a.middle);
}

function countKept({ weights, activations, offsets, window, kept }: Pass, index: number): void {
  const { utilities } = activations.passing;
  const { weight, bias } = weights.layers[index]!.predictor!;
  ops.predictUtility(utilities, activations.layers[index]!.hidden!, weight, bias);
  ops.countKept(kept!.counts.at(index), utilities, kept!.thresholds, offsets, window);
}
