import { totalmem } from 'node:os';
import type { ModelConfig } from '../checkpoint/config.js';
import { planTensors, weightPlan } from '../checkpoint/weights.js';
import { SpkvError } from '../errors.js';
import type { Device } from '../ops.js';
import { defaultLogitRows } from './activations.js';
import type { RunSettings } from './plan.js';
import { mebibytes } from './space.js';

/** Bytes that training takes on the device. */
export interface MemoryNeed {
  /** Weights, gradients, and the state of the optimiser. */
  weights: number;
  /** What a micro-batch leaves for its backward pass, and what is passed on. */
  activations: number;
}

export function memoryNeed(config: ModelConfig, { microBatch, sequenceLength, recompute }: RunSettings, precision: 'bf16' | 'f32'): MemoryNeed {
  const { hiddenSize: C, intermediateSize: F, layers: L, heads: H, kvHeads: G, headDim: D, vocabSize: V, qkNorm, spkv } = config;
  const tokens = microBatch * sequenceLength;
  const type = precision === 'bf16' ? 2 : 4;
  const elements = planTensors(weightPlan(config)).reduce((sum, { shape }) => sum + shape.reduce((size, extent) => size * extent, 1), 0);
  const product = (H + 2 * G) * D + (spkv?.predictorHiddenSize ?? 0);
  const layer = type * (product + (qkNorm ? (H + G) * D : 0) + H * D + 2 * F) + 4 * (G + H + C);
  const passing = type * (3 * C + 2 * F + H * D + product) + 4 * (D + 3 * G + 2 * C + 4);
  return {
    weights: elements * (16 + (precision === 'bf16' ? 2 : 0)),
    activations: tokens * (L * 4 * C + (recompute ? 1 : L) * layer + passing) + type * defaultLogitRows(V, tokens, precision) * V,
  };
}

/** What to say, and to lower, where memory is or would be too small. */
export function outOfMemory(need: MemoryNeed, settings: RunSettings, found: string, cause?: unknown): SpkvError {
  const { microBatch, sequenceLength, recompute } = settings;
  const sizes = `${microBatch > 1 ? `microBatch (now ${microBatch}) or ` : ''}sequenceLength (now ${sequenceLength})`;
  const text =
    `Training needs about ${mebibytes(need.weights + need.activations)}: ${mebibytes(need.weights)} for weights and optimiser, ` +
    `${mebibytes(need.activations)} for the activations of ${microBatch} × ${sequenceLength} tokens; ${found}. Lower ${sizes}${recompute ? '' : ', or turn recompute on'}`;
  return new SpkvError('OUT_OF_MEMORY', text, cause === undefined ? undefined : { cause });
}

/** Refuses a run that cannot fit before anything is allocated. */
export function checkMemory(need: MemoryNeed, settings: RunSettings, device: Device): void {
  const room = device.freeMemory ?? Math.min(totalmem(), process.constrainedMemory() || Infinity); // of a container, where there is one
  if (need.weights + need.activations > room) throw outOfMemory(need, settings, `${device.name} has ${mebibytes(room)}`);
}
