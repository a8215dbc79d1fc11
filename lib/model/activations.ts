import type { ModelConfig } from '../checkpoint/config.js';
import type { Device, Tensor } from '../ops.js';
import type { ModelWeights } from './weights.js';

/**
 * Activations of one step with T new tokens. Letters as in ops.ts; views share the memory of their tensor. What is
 * only multiplied with weights (normed, context, activated) is bf16 where those are and the device computes in it.
 */
export interface Activations {
  ids: Tensor; //        [T] i32
  positions: Tensor; //  [T] i32
  angles: Tensor; //     [T, D]
  x: Tensor; //          [T, C] the residual stream
  normed: Tensor; //     [T, C]
  qkv: Tensor; //        [T, H·D + 2·G·D + P], the last of them the predictor's first layer
  q: Tensor; //          [T, H, D]
  context: Tensor; //    [T, H·D] what attention gives
  contextHeads: Tensor; // [T, H, D] view of context
  keys: Tensor; //       [L, T, G, D] of all layers, inserted together when the step ends
  values: Tensor; //     [L, T, G, D]
  utilities: Tensor | null; // [L, T, G]
  layers: { keys: Tensor; values: Tensor; utilities: Tensor | null }[]; // views of the three
  gateUp: Tensor; //     [T, 2·F]
  gate: Tensor; //       [T, F] view of gateUp
  up: Tensor; //         [T, F] view of gateUp
  activated: Tensor; //  [T, F]
}

type Names = 'ids' | 'positions' | 'angles' | 'x' | 'normed' | 'qkv' | 'queries' | 'context' | 'gateUp' | 'activated';
type Stacked = 'keys' | 'values' | 'utilities';

/** Memory for the activations of steps of up to `tokens` tokens. */
export class ActivationMemory {
  readonly tokens: number;
  readonly #config: ModelConfig;
  readonly #dense: boolean;
  readonly #buffers: Record<Names, Tensor>;
  readonly #stacks: Record<Stacked, Tensor>;
  /** Views for the sizes used last; a prompt in chunks has two. */
  readonly #views = new Map<number, Activations>();

  /** `gated`: for forwardGated, whose attention gives its output in the type of the queries. */
  constructor(device: Device, config: ModelConfig, weights: ModelWeights, tokens: number, gated = false) {
    const { hiddenSize, intermediateSize, layers, heads, kvHeads, headDim, spkv } = config;
    const f32 = (...shape: number[]) => device.tensor('f32', shape);
    const factor = device.precision === 'bf16' && weights.head.dtype === 'bf16' ? 'bf16' : 'f32';
    const multiplied = (...shape: number[]) => device.tensor(factor, shape);
    const predictor = weights.dense ? 0 : spkv!.predictorHiddenSize;
    this.tokens = tokens;
    this.#config = config;
    this.#dense = weights.dense;
    this.#buffers = {
      ids: device.tensor('i32', [tokens]),
      positions: device.tensor('i32', [tokens]),
      angles: f32(tokens, headDim),
      x: f32(tokens, hiddenSize),
      normed: multiplied(tokens, hiddenSize),
      qkv: f32(tokens, (heads + 2 * kvHeads) * headDim + predictor),
      queries: f32(tokens, heads * headDim),
      context: (gated ? f32 : multiplied)(tokens, heads * headDim),
      gateUp: f32(tokens, 2 * intermediateSize),
      activated: multiplied(tokens, intermediateSize),
    };
    this.#stacks = {
      keys: f32(layers, tokens, kvHeads, headDim),
      values: f32(layers, tokens, kvHeads, headDim),
      utilities: f32(layers, tokens, kvHeads),
    };
  }

  /** The activations of a step of `tokens` tokens, over this memory. */
  take(tokens: number): Activations {
    let views = this.#views.get(tokens);
    if (!views) {
      if (this.#views.size >= 4) this.#views.delete(this.#views.keys().next().value!);
      views = this.#cut(tokens);
      this.#views.set(tokens, views);
    }
    return views;
  }

  #cut(tokens: number): Activations {
    const { intermediateSize, layers, heads } = this.#config;
    const rows = Object.fromEntries(
      Object.entries(this.#buffers).map(([name, buffer]) => [name, buffer.slice(0, 0, tokens)]),
    ) as Record<Names, Tensor>;
    const stacks = Object.fromEntries(
      Object.entries(this.#stacks).map(([name, stack]) => [name, stack.slice(1, 0, tokens)]),
    ) as Record<Stacked, Tensor>;
    const utilities = this.#dense ? null : stacks.utilities;
    return {
      ...rows,
      q: rows.queries.split(heads),
      contextHeads: rows.context.split(heads),
      keys: stacks.keys,
      values: stacks.values,
      utilities,
      layers: Array.from({ length: layers }, (_, layer) => ({
        keys: stacks.keys.at(layer),
        values: stacks.values.at(layer),
        utilities: utilities?.at(layer) ?? null,
      })),
      gate: rows.gateUp.slice(1, 0, intermediateSize),
      up: rows.gateUp.slice(1, intermediateSize, 2 * intermediateSize),
    };
  }

  dispose(): void {
    for (const tensor of [...Object.values(this.#buffers), ...Object.values(this.#stacks)]) tensor.dispose();
    this.#views.clear();
  }
}
