import type { ModelConfig } from '../checkpoint/config.js';
import { type LayerPlan, type TensorRef, weightPlan } from '../checkpoint/weights.js';
import type { LayerWeights, ModelWeights } from '../model/weights.js';
import type { Tensor } from '../ops.js';

/**
 * How a weight is trained: matrices decay, vectors do not, predictors have a learning rate of their own. A constant
 * fills the place of a bias that the checkpoint does not have, and stays zero.
 */
export type Group = 'matrix' | 'vector' | 'predictor' | 'constant';

/** One tensor of the checkpoint and where it lies: `offset` in elements. A constant has no name. */
export interface Part extends TensorRef {
  readonly offset: number;
  readonly group: Group;
}

/** Neighbours of one group: they, and those at the same place of other layers, are updated in one go. */
export interface Segment {
  readonly group: Group;
  readonly start: number;
  readonly end: number;
}

/** What belongs together: the embedding, a layer, or what comes after the last layer. */
export interface Block {
  readonly name: string;
  readonly start: number;
  readonly end: number;
  readonly segments: readonly Segment[];
}

/** Blocks of the same shape, one behind another. */
export type Stack = readonly [Block, ...Block[]];

/** Tensors begin at multiples of so many elements, unless they are rows of one matrix product. */
const ALIGNMENT = 64;

/**
 * All weights of a model in one vector, in the same order for the weights, their gradients and the state of the
 * optimizer:
 *
 *   embedding │ layer 0: o, gate + up, down, q + k + v + fc1, their biases, fc2, other biases, norms │ layer 1 │ ... │ norm, head
 *
 * What is one matrix product is one tensor: gate and up, and q, k, v with the predictor's first layer.
 */
export class Layout {
  readonly config: ModelConfig;
  readonly parts: readonly Part[];
  /** The embedding, the layers in order, the output. */
  readonly blocks: readonly Block[];
  /** The same, those of one shape together: the embedding, all layers, the output. */
  readonly stacks: readonly Stack[];
  /** Elements in all. */
  readonly size: number;
  readonly #parts = new Map<string, Part>();

  constructor(config: ModelConfig) {
    this.config = config;
    const builder = new Builder();
    const plan = weightPlan(config);
    builder.block('the embedding', () => builder.place('matrix', plan.embedTokens));
    for (const [index, layer] of plan.layers.entries()) builder.block(`layer ${index}`, () => placeLayer(builder, layer));
    builder.block('the output', () => {
      if (plan.lmHead) builder.place('matrix', plan.lmHead);
      builder.place('vector', plan.finalNorm);
    });
    this.parts = builder.parts;
    this.blocks = builder.blocks;
    this.stacks = [this.blocks.slice(0, 1), this.blocks.slice(1, -1), this.blocks.slice(-1)].map((blocks) => blocks as [Block, ...Block[]]);
    this.size = builder.size;
    for (const part of this.parts) this.#parts.set(part.name, part);
  }

  /** The named part of a vector in this layout. */
  part(vector: Tensor, name: string): Tensor {
    const { shape, offset } = this.#parts.get(name)!;
    return vector.view(shape, shape.length === 2 ? [shape[1]!, 1] : [1], offset);
  }

  /** What lies from `start` to `end` in the first block of a stack, and at the same place in the others: [blocks, end - start]. */
  rows(vector: Tensor, stack: Stack, { start, end }: { start: number; end: number }): Tensor {
    const [first] = stack;
    return vector.view([stack.length, end - start], [first.end - first.start, 1], start);
  }

  /** The tensors of a model, cut from vectors in this layout: matrices from the one, everything else from the other. */
  cut(matrices: Tensor, vectors: Tensor): ModelWeights {
    const plan = weightPlan(this.config);
    const embedding = this.part(matrices, plan.embedTokens.name);
    return {
      embedding,
      layers: plan.layers.map((layer) => this.#cutLayer(layer, matrices, vectors)),
      finalNorm: this.part(vectors, plan.finalNorm.name),
      head: plan.lmHead ? this.part(matrices, plan.lmHead.name) : embedding,
      dense: plan.dense,
    };
  }

  #cutLayer(layer: LayerPlan, matrices: Tensor, vectors: Tensor): LayerWeights {
    const { predictor } = layer;
    const optional = (ref: TensorRef | undefined) => (ref ? this.part(vectors, ref.name) : null);
    const stack = (...refs: (TensorRef | undefined)[]) => this.#stack(matrices, refs);
    const biases = biasNames(layer);
    return {
      inputNorm: this.part(vectors, layer.inputNorm.name),
      qkv: stack(layer.qProj, layer.kProj, layer.vProj, predictor?.fc1Weight),
      qkvBias: biases.length > 0 ? this.#stack(vectors, biases.map((name) => this.#parts.get(name)!)) : null,
      qNorm: optional(layer.qNorm),
      kNorm: optional(layer.kNorm),
      predictor: predictor
        ? { weight: this.part(vectors, predictor.fc2Weight.name), bias: this.part(vectors, predictor.fc2Bias.name) }
        : null,
      out: stack(layer.oProj),
      outBias: optional(layer.oBias),
      postNorm: this.part(vectors, layer.postNorm.name),
      gateUp: stack(layer.gateProj, layer.upProj),
      gateUpBias: layer.gateBias ? this.#stack(vectors, [layer.gateBias, layer.upBias]) : null,
      down: stack(layer.downProj),
      downBias: optional(layer.downBias),
    };
  }

  /** Parts that lie one after another, as one tensor. */
  #stack(vector: Tensor, refs: readonly (TensorRef | undefined)[]): Tensor {
    const parts = refs.flatMap((ref) => (ref ? [this.#parts.get(ref.name)!] : []));
    const rows = parts.reduce((sum, { shape }) => sum + shape[0]!, 0);
    const [, columns] = parts[0]!.shape;
    return columns === undefined ? vector.view([rows], [1], parts[0]!.offset) : vector.view([rows, columns], [columns, 1], parts[0]!.offset);
  }
}

/** The biases of q, k, v and fc1 as they lie side by side; constants stand in for those of q, k and v if need be. */
function biasNames({ qProj, qBias, kBias, vBias, predictor }: LayerPlan): string[] {
  const fc1 = predictor ? [predictor.fc1Bias.name] : [];
  if (qBias) return [qBias.name, kBias!.name, vBias!.name, ...fc1];
  return predictor ? [`${qProj.name}:constant`, ...fc1] : [];
}

function placeLayer(builder: Builder, layer: LayerPlan): void {
  const { predictor } = layer;
  builder.place('matrix', layer.oProj);
  builder.place('matrix', layer.gateProj, layer.upProj);
  builder.place('matrix', layer.downProj);
  builder.place('matrix', layer.qProj, layer.kProj, layer.vProj);
  if (predictor) builder.follow('predictor', predictor.fc1Weight);
  if (layer.qBias) {
    builder.place('vector', layer.qBias, layer.kBias!, layer.vBias!);
  } else if (predictor) {
    const rows = layer.qProj.shape[0]! + layer.kProj.shape[0]! + layer.vProj.shape[0]!;
    builder.place('constant', { name: `${layer.qProj.name}:constant`, shape: [rows] });
  }
  if (predictor) {
    builder.follow('predictor', predictor.fc1Bias);
    builder.place('predictor', predictor.fc2Weight);
    builder.place('predictor', predictor.fc2Bias);
  }
  if (layer.gateBias) builder.place('vector', layer.gateBias, layer.upBias!);
  for (const ref of [layer.oBias, layer.downBias, layer.qNorm, layer.kNorm, layer.inputNorm, layer.postNorm]) {
    if (ref) builder.place('vector', ref);
  }
}

class Builder {
  readonly parts: Part[] = [];
  readonly blocks: Block[] = [];
  size = 0;
  #segments: { group: Group; start: number; end: number }[] = [];

  block(name: string, body: () => void): void {
    this.#align();
    const start = this.size;
    this.#segments = [];
    body();
    this.#align();
    this.blocks.push({ name, start, end: this.size, segments: this.#segments });
  }

  /** Tensors one after another, the first of them aligned. */
  place(group: Group, ...refs: TensorRef[]): void {
    this.#align();
    this.follow(group, ...refs);
  }

  /** The same, right behind what was placed last. */
  follow(group: Group, ...refs: TensorRef[]): void {
    for (const { name, shape } of refs) {
      this.parts.push({ name, shape, offset: this.size, group });
      const last = this.#segments.at(-1);
      const start = this.size;
      this.size += shape.reduce((product, extent) => product * extent, 1);
      if (last?.group === group) last.end = this.size;
      else this.#segments.push({ group, start, end: this.size });
    }
  }

  #align(): void {
    this.size = Math.ceil(this.size / ALIGNMENT) * ALIGNMENT;
  }
}
