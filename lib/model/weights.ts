import type { Checkpoint } from '../checkpoint/checkpoint.js';
import { checkedWeightPlan, type LayerPlan, type TensorRef } from '../checkpoint/weights.js';
import { withFile } from '../files.js';
import { SpkvError } from '../errors.js';
import { halvesToFloats } from '../half.js';
import * as ops from '../ops.js';
import type { Device, Tensor } from '../ops.js';

/** The weights of one layer as the forward pass uses them. Packed weights are marked; all others are plain. */
export interface LayerWeights {
  inputNorm: Tensor;
  /** Packed [H·D + 2·G·D + P, C]: q, k, v and the predictor's first layer as one product. */
  qkv: Tensor;
  /** [H·D + 2·G·D + P] where any of the four has a bias. */
  qkvBias: Tensor | null;
  qNorm: Tensor | null;
  kNorm: Tensor | null;
  /** The predictor's second layer [G, P] and [G]; null in a dense model. */
  predictor: { weight: Tensor; bias: Tensor } | null;
  /** Packed [C, H·D] */
  out: Tensor;
  outBias: Tensor | null;
  postNorm: Tensor;
  /** Packed [2·F, C] */
  gateUp: Tensor;
  gateUpBias: Tensor | null;
  /** Packed [C, F] */
  down: Tensor;
  downBias: Tensor | null;
}

export interface ModelWeights {
  /** [V, C] */
  embedding: Tensor;
  layers: LayerWeights[];
  finalNorm: Tensor;
  /** Packed [V, C] */
  head: Tensor;
  /** True when the checkpoint has no predictors. */
  dense: boolean;
}

/**
 * Brings a checkpoint's weights to the device. Files are mapped, and packed or copied from the mapping.
 * `onProgress` is told the share done, 0 to 1. Errors: FILE, UNSUPPORTED, OUT_OF_MEMORY; the reason of `signal`.
 */
export async function loadWeights(
  checkpoint: Checkpoint, device: Device, onProgress?: (share: number) => void, signal?: AbortSignal,
): Promise<ModelWeights> {
  const plan = checkedWeightPlan(checkpoint);
  const loader = new TensorLoader(checkpoint, device);
  const embedding = await loader.load(plan.embedTokens);
  const layers: LayerWeights[] = [];
  for (const layer of plan.layers) {
    signal?.throwIfAborted();
    layers.push(await loadLayer(loader, layer));
    // Waiting per layer keeps the mapped pages of few layers at a time in memory, and lets a cancel through.
    await device.synchronize();
    onProgress?.(layers.length / (plan.layers.length + 1));
  }
  const finalNorm = await loader.load(plan.finalNorm);
  const head = plan.lmHead ? await loader.pack(plan.lmHead) : ops.packWeight(embedding);
  await device.synchronize();
  onProgress?.(1);
  return { embedding, layers, finalNorm, head, dense: plan.dense };
}

/** Frees the memory of the weights without waiting for the garbage collector. */
export function disposeWeights({ embedding, layers, finalNorm, head }: ModelWeights): void {
  const parts = layers.flatMap(({ predictor, ...tensors }) => [...Object.values(tensors), predictor?.weight, predictor?.bias]);
  for (const tensor of [embedding, ...parts, finalNorm, head]) tensor?.dispose();
}

async function loadLayer(loader: TensorLoader, plan: LayerPlan): Promise<LayerWeights> {
  const { predictor } = plan;
  const fc1 = predictor ? [predictor.fc1Weight] : [];
  return {
    inputNorm: await loader.load(plan.inputNorm),
    qkv: await loader.pack(plan.qProj, plan.kProj, plan.vProj, ...fc1),
    qkvBias: await loader.stackBiases(
      [plan.qProj, plan.qBias], [plan.kProj, plan.kBias], [plan.vProj, plan.vBias],
      ...(predictor ? [[predictor.fc1Weight, predictor.fc1Bias] as const] : []),
    ),
    qNorm: await loader.optional(plan.qNorm),
    kNorm: await loader.optional(plan.kNorm),
    predictor: predictor
      ? { weight: await loader.load(predictor.fc2Weight), bias: await loader.load(predictor.fc2Bias) }
      : null,
    out: await loader.pack(plan.oProj),
    outBias: await loader.optional(plan.oBias),
    postNorm: await loader.load(plan.postNorm),
    gateUp: await loader.pack(plan.gateProj, plan.upProj),
    gateUpBias: await loader.stackBiases([plan.gateProj, plan.gateBias], [plan.upProj, plan.upBias]),
    down: await loader.pack(plan.downProj),
    downBias: await loader.optional(plan.downBias),
  };
}

/** Brings tensors of a checkpoint to a device: as they are, or widened where there are no kernels for their type. */
export class TensorLoader {
  constructor(
    private readonly checkpoint: Checkpoint,
    private readonly device: Device,
  ) {}

  async load({ name, shape }: TensorRef): Promise<Tensor> {
    const { file, offset, dtype } = this.checkpoint.tensor(name, shape);
    switch (dtype) {
      case 'F32':
        return this.device.map(file, offset, 'f32', shape);
      case 'BF16':
        return this.device.map(file, offset, 'bf16', shape);
      case 'F16':
        return this.convertHalf(file, offset, shape);
      default:
        throw new SpkvError('UNSUPPORTED', `${file}: tensor "${name}" is ${dtype}; spkv reads F32, BF16 and F16`);
    }
  }

  async optional(ref: TensorRef | undefined): Promise<Tensor | null> {
    return ref ? this.load(ref) : null;
  }

  async pack(...refs: TensorRef[]): Promise<Tensor> {
    const sources: Tensor[] = [];
    for (const ref of refs) sources.push(await this.load(ref));
    const same = sources.every((source) => source.dtype === sources[0]!.dtype);
    const unified = same ? sources : sources.map((source) => this.toFloats(source));
    const packed = ops.packWeight(...unified);
    // Work in flight keeps what it needs: the files' pages go as soon as they have been packed.
    for (const source of [...sources, ...unified]) source.dispose();
    return packed;
  }

  /** Biases of stacked weights as one vector, zeros where a weight has none; null where none has. */
  async stackBiases(...parts: (readonly [weight: TensorRef, bias: TensorRef | undefined])[]): Promise<Tensor | null> {
    if (parts.every(([, bias]) => bias === undefined)) return null;
    const rows = parts.map(([weight]) => weight.shape[0]!);
    const stacked = this.device.tensor('f32', [rows.reduce((sum, count) => sum + count, 0)]);
    let start = 0;
    for (const [index, [, bias]] of parts.entries()) {
      if (bias) {
        using source = await this.load(bias);
        ops.copy(stacked.slice(0, start, start + rows[index]!), source);
      }
      start += rows[index]!;
    }
    return stacked;
  }

  private toFloats(source: Tensor): Tensor {
    if (source.dtype === 'f32') return source;
    const floats = this.device.tensor('f32', source.shape);
    ops.copy(floats, source);
    return floats;
  }

  /** F16 has no kernels; it is widened to f32, exactly, a piece at a time. */
  private async convertHalf(path: string, offset: number, shape: readonly number[]): Promise<Tensor> {
    const tensor = this.device.tensor('f32', shape);
    const flat = tensor.view([tensor.size], [1], 0);
    const piece = 1 << 20;
    await withFile(path, async (file) => {
      for (let start = 0; start < tensor.size; start += piece) {
        const count = Math.min(piece, tensor.size - start);
        const halves = new Uint16Array(count);
        const { bytesRead } = await file.read(new Uint8Array(halves.buffer), 0, 2 * count, offset + 2 * start);
        if (bytesRead !== 2 * count) throw new SpkvError('FILE', `${path}: ends before byte ${offset + 2 * (start + count)}`);
        flat.slice(0, start, start + count).write(halvesToFloats(halves));
      }
    });
    return tensor;
  }
}
