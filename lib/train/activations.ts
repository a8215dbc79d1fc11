import type { ModelConfig } from '../checkpoint/config.js';
import type { Device, Tensor } from '../ops.js';

/** What the backward pass of a layer needs from its forward pass. T tokens; other letters as in ops.ts. */
export interface LayerActivations {
  x: Tensor; //             [T, C] f32: the residual stream that enters the layer
  qkv: Tensor; //           [T, H·D + 2·G·D + P]
  raw: Heads | null; //     q and k before their norms, views of qkv; null in models without
  qk: Tensor; //            [T, H + G, D]: q and k, which lie side by side
  q: Tensor; //             [T, H, D] after the rotary embedding
  k: Tensor; //             [T, G, D] after the rotary embedding
  v: Tensor; //             [T, G, D] view of qkv
  hidden: Tensor | null; // [T, P] view of qkv: the predictor's first layer
  gates: Tensor | null; //  [T, G] f32
  context: Tensor; //       [T, H·D]
  contextHeads: Tensor; //  [T, H, D] view of context
  logSumExp: Tensor; //     [T, H] f32
  middle: Tensor; //        [T, C] f32: the residual stream between attention and MLP
  gateUp: Tensor; //        [T, 2·F]
  gate: Tensor; //          [T, F] view of gateUp
  up: Tensor; //            [T, F] view of gateUp
}

interface Heads {
  qk: Tensor; // [T, H + G, D]
  q: Tensor; // [T, H, D]
  k: Tensor; // [T, G, D]
}

/** What passes from one operation to the next, and the gradients on their way back. */
export interface Passing {
  ids: Tensor; //         [T] i32
  positions: Tensor; //   [T] i32
  targets: Tensor; //     [T] i32
  angles: Tensor; //      [T, D] f32
  normed: Tensor; //      [T, C]
  activated: Tensor; //   [T, F]
  utilities: Tensor; //   [T, G] f32
  priced: Tensor; //      [T, G] f32: utilities times their price
  final: Tensor; //       [T, C] f32: the residual stream after the last layer
  losses: Tensor; //      [T] f32
  logits: Tensor; //      [at most chunk, V]
  dx: Tensor; //          [T, C] f32: of the residual stream
  dy: Tensor; //          [T, C]: the same in the type of the activations; `dx` itself where that is f32
  dyCopy: Tensor | null; // dy where it is not dx: what makes dx rounds it to this
  dNormed: Tensor; //     [T, C]
  dActivated: Tensor; //  [T, F]
  dContext: Tensor; //    [T, H·D]
  dContextHeads: Tensor; // [T, H, D] view of dContext
  dQkv: Tensor; //        [T, H·D + 2·G·D + P]
  dqk: Tensor; //         [T, H + G, D] view of dQkv
  dq: Tensor; //          [T, H, D] view of dQkv
  dk: Tensor; //          [T, G, D] view of dQkv
  dv: Tensor; //          [T, G, D] view of dQkv
  dHidden: Tensor | null; // [T, P] view of dQkv
  dGates: Tensor; //      [T, G] f32
}

export interface Activations {
  layers: readonly LayerActivations[];
  passing: Passing;
}

/** Logits that exist at a time. Few rows would leave most of a GPU idle, and every chunk of them reads all of the head. */
const LOGITS = { f32: 2 ** 24, bf16: 2 ** 27 };

/** Tokens whose logits exist at a time, in chunks of about one size. */
export function defaultLogitRows(vocabSize: number, tokens: number, precision: 'bf16' | 'f32'): number {
  const chunks = Math.ceil((tokens * vocabSize) / LOGITS[precision]);
  return Math.min(tokens, Math.max(64, Math.ceil(tokens / chunks / 64) * 64));
}

type LayerBuffers = { [name in 'x' | 'qkv' | 'roped' | 'gates' | 'context' | 'logSumExp' | 'middle' | 'gateUp']: Tensor };
type PassingBuffers = { [name in Exclude<keyof Passing, 'dyCopy'>]?: Tensor };

/**
 * Memory for the activations of micro-batches of up to `tokens` tokens, taken once. With `recompute` the layers
 * share everything but x, from which the backward pass makes the rest anew.
 */
export class TrainingMemory {
  readonly tokens: number;
  readonly #config: ModelConfig;
  readonly #layers: LayerBuffers[] = [];
  readonly #passing: PassingBuffers;
  /** Views for the sizes used last. */
  readonly #views = new Map<number, Activations>();

  constructor(device: Device, config: ModelConfig, tokens: number, logitRows: number, recompute: boolean) {
    const { hiddenSize: C, intermediateSize: F, layers, heads: H, kvHeads: G, headDim: D, vocabSize, qkNorm, spkv } = config;
    const type = device.precision;
    const P = spkv?.predictorHiddenSize ?? 0;
    const row = (dtype: 'f32' | 'bf16' | 'i32', width: number) => device.tensor(dtype, [tokens, width]);
    this.tokens = tokens;
    this.#config = config;
    for (let layer = 0; layer < layers; layer++) {
      const x = row('f32', C);
      const first = this.#layers[0];
      this.#layers.push(recompute && first ? { ...first, x } : {
        x,
        qkv: row(type, (H + 2 * G) * D + P),
        roped: row(type, qkNorm ? (H + G) * D : 0),
        gates: row('f32', G),
        context: row(type, H * D),
        logSumExp: row('f32', H),
        middle: row('f32', C),
        gateUp: row(type, 2 * F),
      });
    }
    const dx = row('f32', C);
    this.#passing = {
      ids: device.tensor('i32', [tokens]),
      positions: device.tensor('i32', [tokens]),
      targets: device.tensor('i32', [tokens]),
      angles: row('f32', D),
      normed: row(type, C),
      activated: row(type, F),
      utilities: row('f32', G),
      priced: row('f32', G),
      final: row('f32', C),
      losses: device.tensor('f32', [tokens]),
      dx,
      dy: type === 'f32' ? dx : row(type, C),
      dNormed: row(type, C),
      dActivated: row(type, F),
      dContext: row(type, H * D),
      dQkv: row(type, (H + 2 * G) * D + P),
      dGates: row('f32', G),
      logits: device.tensor(type, [logitRows, vocabSize]),
    };
  }

  /** The activations of `tokens` tokens, over this memory. */
  take(tokens: number): Activations {
    let views = this.#views.get(tokens);
    if (!views) {
      if (this.#views.size >= 4) this.#views.delete(this.#views.keys().next().value!);
      views = { layers: this.#layers.map((buffers) => this.#cutLayer(buffers, tokens)), passing: this.#cutPassing(tokens) };
      this.#views.set(tokens, views);
    }
    return views;
  }

  #cutLayer(buffers: LayerBuffers, tokens: number): LayerActivations {
    const { intermediateSize, qkNorm, spkv } = this.#config;
    const rows = cutRows(buffers, tokens);
    const { v, hidden, ...heads } = this.#cutQkv(rows.qkv);
    return {
      ...rows, v, hidden, ...(qkNorm ? this.#cutHeads(rows.roped) : heads),
      raw: qkNorm ? heads : null,
      gates: spkv ? rows.gates : null,
      contextHeads: rows.context.split(this.#config.heads),
      gate: rows.gateUp.slice(1, 0, intermediateSize),
      up: rows.gateUp.slice(1, intermediateSize, 2 * intermediateSize),
    };
  }

  #cutPassing(tokens: number): Passing {
    const { logits, ...others } = this.#passing;
    const rows = cutRows(others as Required<PassingBuffers>, tokens);
    const { qk: dqk, q: dq, k: dk, v: dv, hidden: dHidden } = this.#cutQkv(rows.dQkv);
    const dyCopy = rows.dy.dtype === rows.dx.dtype ? null : rows.dy;
    return { ...rows, dyCopy, logits: logits!, dqk, dq, dk, dv, dHidden, dContextHeads: rows.dContext.split(this.#config.heads) };
  }

  #cutQkv(qkv: Tensor): Heads & { v: Tensor; hidden: Tensor | null } {
    const { heads, kvHeads, headDim, spkv } = this.#config;
    const vStart = (heads + kvHeads) * headDim;
    const end = vStart + kvHeads * headDim;
    return {
      ...this.#cutHeads(qkv.slice(1, 0, vStart)),
      v: qkv.slice(1, vStart, end).split(kvHeads),
      hidden: spkv ? qkv.slice(1, end, qkv.shape[1]!) : null,
    };
  }

  /** Queries and keys of [T, H·D + G·D]. */
  #cutHeads(columns: Tensor): Heads {
    const { heads, kvHeads } = this.#config;
    const qk = columns.split(heads + kvHeads);
    return { qk, q: qk.slice(1, 0, heads), k: qk.slice(1, heads, heads + kvHeads) };
  }

  dispose(): void {
    const all = [...this.#layers.flatMap((buffers) => Object.values(buffers)), ...Object.values(this.#passing)];
    for (const tensor of new Set(all)) tensor.dispose();
    this.#views.clear();
  }
}

/** The first `tokens` rows of every tensor. */
function cutRows<Names extends string>(buffers: Record<Names, Tensor>, tokens: number): Record<Names, Tensor> {
  return Object.fromEntries(
    Object.entries<Tensor>(buffers).map(([name, buffer]) => [name, buffer.slice(0, 0, tokens)]),
  ) as Record<Names, Tensor>;
}
