// The kernel level of spkv: operations on tensors that you hold. Every call checks its arguments, enqueues and
// returns at once; nothing waits until a tensor is read. Outputs come first. Contracts (equations, shapes,
// numerics) stand in native/ops; dimension letters: T tokens, C or K columns, H query heads, G KV heads, D head
// size, V vocabulary, B sequences, L layers. On a GPU, activations
// and their gradients may be bf16: what is made of weights, to be multiplied with weights, and queries, keys and values.
/// <reference lib="esnext.disposable" preserve="true" />
import type { KvCache } from './cache.js';
import { invalid, oneOf, options } from './check.js';
import type { Communicator } from './communicator.js';
import { native, type TensorHandle } from './native.js';
import { Tensor } from './tensor.js';

export { CACHE_DTYPES, type CacheDType, KvCache, type KvCacheOptions, PAGE_TOKENS, type PoolStats, Sequence, type SequenceStats } from './cache.js';
export { Communicator } from './communicator.js';
export { Device, type DeviceOptions, Graph, openDevice } from './device.js';
export { type ErrorCode, SpkvError } from './errors.js';
export { bf16ToFloats, type DType, floatsToBf16, Tensor, type TensorData } from './tensor.js';

// What is no tensor reaches the binding as it is, which answers with the name of the argument.
const h = (tensor: Tensor): TensorHandle => (tensor as Tensor | undefined)?.handle ?? (tensor as unknown as TensorHandle);
const optional = (tensor: Tensor | null | undefined): TensorHandle | null => (tensor === undefined || tensor === null ? null : h(tensor));

/** out [T, C] = rows `ids` [T] i32 of table [V, C]. */
export const embedding = (out: Tensor, ids: Tensor, table: Tensor): void => native().embedding(h(out), h(ids), h(table));

/** dTable [V, C] += dy [T, C] at the rows `ids` [T] i32: the backward of {@link embedding}. */
export const embeddingBackward = (dTable: Tensor, ids: Tensor, dy: Tensor): void =>
  native().embeddingBackward(h(dTable), h(ids), h(dy));

/** out = x / sqrt(mean(x²) + epsilon) · weight, over the last dimension: x [T, C] or [T, H, D]. `out` may be `x`. */
export const rmsNorm = (out: Tensor, x: Tensor, weight: Tensor, epsilon: number): void =>
  native().rmsNorm(h(out), h(x), h(weight), epsilon);

/**
 * The backward of {@link rmsNorm}: dx = its gradient, or += with `accumulate`; dWeight += its. `dx` may be `dy`. `copy`,
 * where it is given, becomes dx in bf16.
 */
export const rmsNormBackward = (
  dx: Tensor, dWeight: Tensor, dy: Tensor, x: Tensor, weight: Tensor, epsilon: number, accumulate = false, copyOf?: Tensor | null,
): void => native().rmsNormBackward(h(dx), h(dWeight), h(dy), h(x), h(weight), epsilon, accumulate, optional(copyOf));

/**
 * out [T, N] = base [T, N] + x [T, K] · weight [N, K]ᵀ + bias [N]. The base may be `out` itself, for which `true` stands.
 * Weights f32 or bf16, plain or packed; sums in f32.
 */
export const matmul = (out: Tensor, x: Tensor, weight: Tensor, bias?: Tensor | null, base?: Tensor | boolean | null): void =>
  native().matmul(h(out), h(x), h(weight), optional(bias), base === true ? h(out) : base === false ? null : optional(base));

/** dx [T, K] = dy [T, N] · weight [N, K], or += with `accumulate`: from the gradient of a product to that of its input. */
export const matmulInputGradient = (dx: Tensor, dy: Tensor, weight: Tensor, accumulate = false): void =>
  native().matmulInputGradient(h(dx), h(dy), h(weight), accumulate);

/** dWeight [N, K] += dyᵀ [N, T] · x [T, K] */
export const matmulWeightGradient = (dWeight: Tensor, dy: Tensor, x: Tensor): void =>
  native().matmulWeightGradient(h(dWeight), h(dy), h(x));

/** out [N] += the sum of the rows of x [T, N]: of dy, the gradient of a bias. */
export const columnSums = (out: Tensor, x: Tensor): void => native().columnSums(h(out), h(x));

/**
 * A copy of up to four weights [Nᵢ, K] of one dtype, stacked along N, in the layout that the device's matrix
 * product likes best. Only `matmul` reads it.
 */
export function packWeight(...sources: Tensor[]): Tensor {
  const first = sources[0];
  if (!(first instanceof Tensor) || first.shape.length !== 2) throw invalid('tensors of shape [N, K]', 'sources', first);
  const rows = sources.reduce((sum, source) => sum + (source?.shape?.[0] ?? 0), 0);
  const packed = Tensor.packed(first.device, first.dtype, rows, first.shape[1]!);
  native().packWeight(packed.handle, sources.length, ...sources.map(h));
  return packed;
}

/** out [T, D]: cosines then sines of positions [T] i32 × inverseFrequencies [D/2], for {@link rope}. */
export const rotaryAngles = (out: Tensor, positions: Tensor, inverseFrequencies: Tensor): void =>
  native().rotaryAngles(h(out), h(positions), h(inverseFrequencies));

/**
 * out [T, H, D] = x rotated by angles [T, D] in the half-split form, or back with `inverse`, which is also the
 * backward. `out` may be `x`.
 */
export const rope = (out: Tensor, x: Tensor, angles: Tensor, inverse = false): void =>
  native().rope(h(out), h(x), h(angles), inverse);

/** out [T, F] = silu(gate) · up. */
export const siluMul = (out: Tensor, gate: Tensor, up: Tensor): void => native().siluMul(h(out), h(gate), h(up));

/**
 * The backward of {@link siluMul}: dGate and dUp [T, F], which may be any of the inputs, from dy. `activated`, where it is
 * given, becomes what siluMul gives.
 */
export const siluMulBackward = (dGate: Tensor, dUp: Tensor, dy: Tensor, gate: Tensor, up: Tensor, activated?: Tensor | null): void =>
  native().siluMulBackward(h(dGate), h(dUp), h(dy), h(gate), h(up), optional(activated));

/** out [T, C] = a + b. */
export const add = (out: Tensor, a: Tensor, b: Tensor): void => native().add(h(out), h(a), h(b));

/** out = x, converted between f32 and bf16 where they differ. */
export const copy = (out: Tensor, x: Tensor): void => native().copy(h(out), h(x));

/** out = value, everywhere; f32 or bf16. */
export const fill = (out: Tensor, value: number): void => native().fill(h(out), value);

/**
 * What {@link predictUtility} gives: the utility u, log u, or log((1 - alpha) · u + alpha · [u >= threshold]), which
 * leads from log u (alpha 0) to what inference does (alpha 1: 0 or -Infinity).
 */
export type UtilityForm = 'utility' | 'log' | { readonly alpha: number; readonly threshold: number };

/**
 * Utilities: out [T, G] = u = sigmoid(weight [G, P] · silu(hidden [T, P]) + bias [G]), in the given form. `hidden` is
 * the predictor's first layer with its bias.
 */
export function predictUtility(out: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor, form: UtilityForm = 'utility'): void {
  if (typeof form === 'object') {
    const { alpha, threshold } = options(form, 'form', ['alpha', 'threshold']);
    native().predictUtility(h(out), h(hidden), h(weight), h(bias), 2, alpha!, threshold!);
  } else {
    const log = oneOf(form, 'form', ['utility', 'log']) === 'log';
    native().predictUtility(h(out), h(hidden), h(weight), h(bias), log ? 1 : 0, 0, 0);
  }
}

/** The backward of log utilities: dHidden [T, P] = its gradient; dWeight [G, P] and dBias [G] += theirs. */
export const predictUtilityBackward = (
  dHidden: Tensor, dWeight: Tensor, dBias: Tensor, dLogUtility: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor,
): void =>
  native().predictUtilityBackward(h(dHidden), h(dWeight), h(dBias), h(dLogUtility), h(hidden), h(weight), h(bias));

/**
 * counts [G, N] i32 += how many utilities [T, G] reach each of thresholds [N], among pairs that have left the window
 * of some query of their document (boundaries offsets [B + 1]).
 */
export const countKept = (counts: Tensor, utilities: Tensor, thresholds: Tensor, offsets: Tensor, window: number): void =>
  native().countKept(h(counts), h(utilities), h(thresholds), h(offsets), window);

/** The norms of the heads of queries and keys, where a model has them (Qwen3). */
export interface HeadNorms {
  q: Tensor | null; // [D]
  k: Tensor | null; // [D]
  epsilon: number;
}

/**
 * All that lies between the product qkv [T, H·D + 2·G·D + P] and attention: q [T, H, D] and keys [T, G, D] are
 * normalised (`norms`) and rotated by angles [T, D], values [T, G, D] moved, and utilities [T, G] predicted from the
 * last P columns as {@link predictUtility} does. The predictor is null where there are no utilities.
 */
export const preparePairs = (
  q: Tensor, keys: Tensor, values: Tensor, utilities: Tensor | null, qkv: Tensor, angles: Tensor, norms: HeadNorms | null,
  predictor: { weight: Tensor; bias: Tensor } | null, log = false,
): void =>
  native().preparePairs(
    h(q), h(keys), h(values), optional(utilities), h(qkv), h(angles), optional(norms?.q), optional(norms?.k),
    norms?.epsilon ?? 0, optional(predictor?.weight), optional(predictor?.bias), log,
  );

/**
 * out [T, H, D]: attention of the new tokens of a step over the cache and themselves. Sequence slots[b] brings
 * tokens offsets[b] to offsets[b + 1] of q [T, H, D], keys and values [T, G, D] and utilities [T, G] (none: all
 * kept). The cache is only read.
 */
export const attention = (
  out: Tensor, q: Tensor, keys: Tensor, values: Tensor, utilities: Tensor | null, cache: KvCache, layer: number,
  slots: Tensor, offsets: Tensor, scale: number,
): void =>
  native().attention(
    h(out), h(q), h(keys), h(values), optional(utilities), cache?.handle, layer, h(slots), h(offsets), scale,
  );

/**
 * Ends a step: adds the pairs of all layers [L, T, G, D] to their sequences, all or nothing. Pairs, utilities and the
 * step's logits [N, V], where they are given, must be numbers.
 */
export const insert = (
  cache: KvCache, keys: Tensor, values: Tensor, utilities: Tensor | null, slots: Tensor, offsets: Tensor, logits?: Tensor | null,
): void => native().insert(cache?.handle, h(keys), h(values), optional(utilities), h(slots), h(offsets), optional(logits));

/** out [T] i32: the position of every new token of a step. */
export const positions = (out: Tensor, cache: KvCache, slots: Tensor, offsets: Tensor): void =>
  native().positions(h(out), cache?.handle, h(slots), h(offsets));

/**
 * out [T, H, D]: attention within whole sequences (boundaries offsets [B + 1]) with gates [T, G], log utilities
 * that are added to the scores of keys outside the window. logSumExp [T, H], where it is given, is what
 * {@link gatedAttentionBackward} needs.
 */
export const gatedAttention = (
  out: Tensor, logSumExp: Tensor | null, q: Tensor, keys: Tensor, values: Tensor, gates: Tensor | null, offsets: Tensor,
  window: number, scale: number,
): void =>
  native().gatedAttention(
    h(out), optional(logSumExp), h(q), h(keys), h(values), optional(gates), h(offsets), window, scale,
  );

/**
 * The backward of {@link gatedAttention}: dq, dk, dv and dGates (0 for a gate of -Infinity) are overwritten with the
 * gradients that follow from dOut.
 */
export const gatedAttentionBackward = (
  dq: Tensor, dk: Tensor, dv: Tensor, dGates: Tensor | null, dOut: Tensor, out: Tensor, logSumExp: Tensor, q: Tensor,
  keys: Tensor, values: Tensor, gates: Tensor | null, offsets: Tensor, window: number, scale: number,
): void =>
  native().gatedAttentionBackward(
    h(dq), h(dk), h(dv), optional(dGates), h(dOut), h(out), h(logSumExp), h(q), h(keys), h(values), optional(gates),
    h(offsets), window, scale,
  );

/**
 * out [B] i32: the next token of each row of logits [B, V]. settings [B, 7]: temperature, topK, topP, minP,
 * repetition, frequency, presence; seeds [B, 2] i32; positions [B] i32 of the drawn tokens; history [B, V] i32; mask
 * [B, ceil(V / 32)] i32, a bit for every token that may be drawn.
 */
export const sample = (
  out: Tensor, logits: Tensor, settings: Tensor, seeds: Tensor, positionsOf: Tensor, history?: Tensor | null, mask?: Tensor | null,
): void => native().sample(h(out), h(logits), h(settings), h(seeds), h(positionsOf), optional(history), optional(mask));

/** Marks the tokens ids [T] of a prompt in one row of a history [V], for penalties. */
export const recordPrompt = (history: Tensor, ids: Tensor): void => native().recordPrompt(h(history), h(ids));

/** out [T]: log-probability of targets [T] i32 under logits [T, V], in nats; 0 for a negative target. */
export const logProbabilities = (out: Tensor, logits: Tensor, targets: Tensor): void =>
  native().logProbabilities(h(out), h(logits), h(targets));

/**
 * losses [T] = cross-entropy of targets [T] i32 under logits [T, V], in nats, whose gradient times `factor` takes the
 * place of the logits. A negative target is ignored: 0 and 0.
 */
export const crossEntropy = (losses: Tensor, logits: Tensor, targets: Tensor, factor = 1): void =>
  native().crossEntropy(h(losses), h(logits), h(targets), factor);

/** The numbers of one step of {@link adamW}. */
export interface AdamWStep {
  learningRate: number;
  beta1: number;
  beta2: number;
  epsilon: number;
  weightDecay: number;
  /** From 1. */
  step: number;
}

/**
 * AdamW with decoupled decay on f32 matrices [R, N], updated in place; `copy`, where it is given, becomes the parameter in
 * bf16. Rows are layers: at most 65535. The gradient is multiplied by `factor` [1]; where that is not finite nothing is changed.
 */
export const adamW = (
  parameter: Tensor, momentum: Tensor, variance: Tensor, copyOf: Tensor | null, gradient: Tensor, factor: Tensor,
  { learningRate, beta1, beta2, epsilon, weightDecay, step }: AdamWStep,
): void =>
  native().adamW(
    h(parameter), h(momentum), h(variance), optional(copyOf), h(gradient), h(factor), learningRate, beta1, beta2,
    epsilon, weightDecay, step,
  );

/** out [R] += the sums of squares of the rows of x [R, N], at most 65535 of them. */
export const squaredNorm = (out: Tensor, x: Tensor): void => native().squaredNorm(h(out), h(x));

/**
 * norm [1] = scale · sqrt(sum of squaredNorms [N]); factor [1] = scale · min(1, limit / norm), NaN where the norm is
 * not finite.
 */
export const clipFactor = (factor: Tensor, norm: Tensor, squaredNorms: Tensor, scale: number, limit: number): void =>
  native().clipFactor(h(factor), h(norm), h(squaredNorms), scale, limit);

/**
 * Begins to replace x [N] by its sum over all ranks, as it is after what has been enqueued so far. It is there for what
 * is enqueued after `communicator.join()`, and must be left alone until then.
 */
export const allReduce = (communicator: Communicator, x: Tensor): void => native().allReduce(communicator?.handle, h(x));

/** Native memory that is alive in this process, for leak tests. */
export const liveAllocations = (): { tensors: number; bytes: number; caches: number } => native().liveAllocations();
