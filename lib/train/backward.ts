import type { LayerWeights, ModelWeights } from '../model/weights.js';
import * as ops from '../ops.js';
import type { Tensor } from '../ops.js';
import { forwardLayer, type Pass } from './forward.js';

/**
 * Enqueues the backward pass: adds the gradients of the sum of all losses to `gradients`. The losses of the tokens come
 * to passing.losses. With `recompute` the layers share their activations, which are made anew. `completed` is told when
 * nothing more will come for a block of the layout, from the last block to the first.
 */
export function backward(pass: Pass, gradients: ModelWeights, recompute: boolean, completed: (block: number) => void = () => {}): void {
  const { activations: { layers, passing }, weights } = pass;
  lossAndHead(pass, gradients);
  completed(layers.length + 1);
  for (let index = layers.length - 1; index >= 0; index--) {
    // The last layer's are still there.
    if (recompute && index < layers.length - 1) forwardLayer(pass, index);
    backwardMlp(pass, index, weights.layers[index]!, gradients.layers[index]!);
    backwardAttention(pass, index, weights.layers[index]!, gradients.layers[index]!);
    completed(index + 1);
  }
  ops.embeddingBackward(gradients.embedding, passing.ids, passing.dx);
  completed(0);
}

/**
 * Logits and losses, and with `gradients` the way back to passing.dx. A chunk of tokens at a time: all logits at once
 * would be the largest tensor of all.
 */
export function lossAndHead({ config, weights, activations: { passing } }: Pass, gradients: ModelWeights | null): void {
  const { normed, dNormed, losses, targets, logits, final, dx, dyCopy } = passing;
  const tokens = losses.shape[0]!;
  ops.rmsNorm(normed, final, weights.finalNorm, config.rmsNormEps);
  for (let start = 0; start < tokens; start += logits.shape[0]!) {
    const end = Math.min(tokens, start + logits.shape[0]!);
    const rows = (tensor: Tensor) => tensor.slice(0, start, end);
    const chunk = logits.slice(0, 0, end - start);
    ops.matmul(chunk, rows(normed), weights.head);
    ops.crossEntropy(rows(losses), chunk, rows(targets)); // from here on the chunk holds gradients
    if (!gradients) continue;
    ops.matmulWeightGradient(gradients.head, chunk, rows(normed));
    ops.matmulInputGradient(rows(dNormed), chunk, weights.head);
  }
  if (gradients) ops.rmsNormBackward(dx, gradients.finalNorm, dNormed, final, weights.finalNorm, config.rmsNormEps, false, dyCopy);
}

function backwardMlp({ config, activations }: Pass, index: number, w: LayerWeights, d: LayerWeights): void {
  const { passing } = activations;
  const { normed, activated, dNormed, dActivated, dx, dy, dyCopy } = passing;
  const a = activations.layers[index]!;
  ops.matmulInputGradient(dActivated, dy, w.down);
  ops.siluMulBackward(a.gate, a.up, dActivated, a.gate, a.up, activated); // gateUp is not needed any more: it takes its gradient
  weightGradients(d.down, d.downBias, dy, activated);
  ops.rmsNorm(normed, a.middle, w.postNorm, config.rmsNormEps);
  productGradients(dNormed, d.gateUp, d.gateUpBias, a.gateUp, normed, w.gateUp);
  ops.rmsNormBackward(dx, d.postNorm, dNormed, a.middle, w.postNorm, config.rmsNormEps, true, dyCopy);
}

function backwardAttention(pass: Pass, index: number, w: LayerWeights, d: LayerWeights): void {
  const { config, activations, offsets, window, mode } = pass;
  const { passing } = activations;
  const { normed, dNormed, dContext, dContextHeads, dQkv, dqk, dq, dk, dv, dGates, dx, dy, dyCopy, angles } = passing;
  const a = activations.layers[index]!;
  const gates = mode !== 'dense' && w.predictor ? a.gates : null;
  const learns = mode === 'soft' && w.predictor !== null;
  productGradients(dContext, d.out, d.outBias, dy, a.context, w.out);
  ops.gatedAttentionBackward(
    dq, dk, dv, learns ? dGates : null, dContextHeads, a.contextHeads, a.logSumExp, a.q, a.k, a.v, gates, offsets, window,
    1 / Math.sqrt(config.headDim),
  );
  ops.rope(dqk, dqk, angles, true);
  if (a.raw) {
    ops.rmsNormBackward(dq, d.qNorm!, dq, a.raw.q, w.qNorm!, config.rmsNormEps);
    ops.rmsNormBackward(dk, d.kNorm!, dk, a.raw.k, w.kNorm!, config.rmsNormEps);
  }
  if (learns) {
    if (pass.penalty) addPenalty(pass, index, w, pass.penalty);
    ops.predictUtilityBackward(
      passing.dHidden!, d.predictor!.weight, d.predictor!.bias, dGates, a.hidden!, w.predictor!.weight, w.predictor!.bias,
    );
  }
  // Without a gradient to the predictor its rows of the product are left out. A bias that is not there is a constant.
  const rows = learns ? w.qkv.shape[0]! : w.qkv.shape[0]! - (passing.dHidden?.shape[1] ?? 0);
  const dRows = dQkv.slice(1, 0, rows);
  ops.rmsNorm(normed, a.x, w.inputNorm, config.rmsNormEps);
  productGradients(dNormed, d.qkv.slice(0, 0, rows), null, dRows, normed, w.qkv.slice(0, 0, rows));
  const first = config.attentionBias.qkv ? 0 : dQkv.shape[1]! - (passing.dHidden?.shape[1] ?? 0);
  if (d.qkvBias && first < rows) ops.columnSums(d.qkvBias.slice(0, first, rows), dQkv.slice(1, first, rows));
  ops.rmsNormBackward(dx, d.inputNorm, dNormed, a.x, w.inputNorm, config.rmsNormEps, true, index > 0 ? dyCopy : null);
}

/** The gradient of a cost that grows with the utilities u: with respect to log u it is u itself, times its price. */
function addPenalty({ activations }: Pass, index: number, { predictor }: LayerWeights, penalty: Tensor): void {
  const { utilities, priced, dGates } = activations.passing;
  ops.predictUtility(utilities, activations.layers[index]!.hidden!, predictor!.weight, predictor!.bias);
  ops.matmul(priced, utilities, penalty);
  ops.add(dGates, dGates, priced);
}

/** The gradients of a matrix product: of its weight, its bias and its input. */
function productGradients(dx: Tensor, dWeight: Tensor, dBias: Tensor | null, dy: Tensor, x: Tensor, weight: Tensor): void {
  weightGradients(dWeight, dBias, dy, x);
  ops.matmulInputGradient(dx, dy, weight);
}

function weightGradients(dWeight: Tensor, dBias: Tensor | null, dy: Tensor, x: Tensor): void {
  ops.matmulWeightGradient(dWeight, dy, x);
  if (dBias) ops.columnSums(dBias, dy);
}
