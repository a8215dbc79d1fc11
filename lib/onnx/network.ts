import type { ModelConfig } from '../checkpoint/config.js';
import type { PredictorPlan, TensorRef, WeightPlan } from '../checkpoint/weights.js';
import { inverseFrequencies } from '../model/rope.js';
import { type GraphBuilder, MICROSOFT } from './graph.js';
import type { Weights } from './weights.js';

/** The residual stream [T, C], and what its norm makes of it for the product that comes next. */
export interface Hidden {
  residual: string;
  normed: string;
}

/** What a layer's attention takes: query [T, H·D], key and value [T, G·D], utility [T, G] unless dense. */
export interface AttentionInputs {
  query: string;
  key: string;
  value: string;
  utility: string | undefined;
}

/** Cosines and sines [T, D/2] of the rotary embedding. */
export interface Angles {
  cos: string;
  sin: string;
}

/** The layers of a decoder, but for attention itself, as nodes of a graph: lib/model/forward.ts in ONNX. */
export class Network {
  constructor(
    readonly config: ModelConfig,
    private readonly plan: WeightPlan,
    private readonly weights: Weights,
  ) {}

  get dense(): boolean {
    return this.plan.dense;
  }

  /** ids i64 [T] to the hidden states that layer 0 reads. */
  embed(graph: GraphBuilder, ids: string): Hidden {
    const residual = this.weights.rows(graph, this.plan.embedTokens, ids);
    return { residual, normed: this.#norm(graph, residual, this.plan.layers[0]!.inputNorm) };
  }

  /** positions i64 [T]. In f64, as the native model computes them: at position 100,000 f32 has two digits left of an angle. */
  angles(graph: GraphBuilder, positions: string): Angles {
    const frequencies = Float64Array.from(inverseFrequencies(this.config));
    const column = graph.node('Unsqueeze', [graph.node('Cast', [positions], { to: 11 }), graph.ints(1)]);
    const angles = graph.node('Mul', [column, graph.constant(frequencies, [1, frequencies.length])]);
    const quarterTurn = graph.constant(Float64Array.of(Math.PI / 2), []);
    return {
      // onnxruntime has no cosine in f64.
      cos: graph.node('Cast', [graph.node('Sin', [graph.node('Add', [angles, quarterTurn])])], { to: 1 }),
      sin: graph.node('Cast', [graph.node('Sin', [angles])], { to: 1 }),
    };
  }

  /** What attention of `layer` takes. */
  attentionInputs(graph: GraphBuilder, layer: number, normed: string, angles: Angles): AttentionInputs {
    const { heads, kvHeads } = this.config;
    const { qProj, kProj, vProj, qBias, kBias, vBias, qNorm, kNorm, predictor } = this.plan.layers[layer]!;
    const query = this.weights.product(graph, normed, qProj, qBias);
    const key = this.weights.product(graph, normed, kProj, kBias);
    return {
      query: this.#rotate(graph, this.#normHeads(graph, query, heads, qNorm), angles),
      key: this.#rotate(graph, this.#normHeads(graph, key, kvHeads, kNorm), angles),
      value: this.weights.product(graph, normed, vProj, vBias),
      utility: predictor && utility(graph, normed, predictor, this.weights),
    };
  }

  /** From what attention of `layer` gave, context [T, H·D], to the hidden states that the next layer or the head reads. */
  afterAttention(graph: GraphBuilder, layer: number, context: string, residual: string): Hidden {
    const { oProj, oBias, postNorm, gateProj, gateBias, upProj, upBias, downProj, downBias } = this.plan.layers[layer]!;
    const attended = this.#addNorm(graph, residual, this.weights.product(graph, context, oProj, oBias), postNorm);
    const gate = silu(graph, this.weights.product(graph, attended.normed, gateProj, gateBias));
    const activated = graph.node('Mul', [gate, this.weights.product(graph, attended.normed, upProj, upBias)]);
    const next = this.plan.layers[layer + 1]?.inputNorm ?? this.plan.finalNorm;
    return this.#addNorm(graph, attended.residual, this.weights.product(graph, activated, downProj, downBias), next);
  }

  /** Logits [N, V] of normalised hidden states [N, C]. */
  logits(graph: GraphBuilder, normed: string): string {
    return this.weights.product(graph, normed, this.plan.lmHead ?? this.plan.embedTokens);
  }

  #norm(graph: GraphBuilder, x: string, weight: TensorRef): string {
    return graph.node('SimplifiedLayerNormalization', [x, this.weights.floats(graph, weight)], this.#epsilon);
  }

  /** residual + x, and its norm, in one node. */
  #addNorm(graph: GraphBuilder, residual: string, x: string, weight: TensorRef): Hidden {
    const normed = graph.fresh('normed');
    const sum = graph.fresh('residual');
    graph.node('SkipSimplifiedLayerNormalization', [residual, x, this.weights.floats(graph, weight)], this.#epsilon, { domain: MICROSOFT, outputs: [normed, '', '', sum] });
    return { residual: sum, normed };
  }

  get #epsilon(): { epsilon: { float: number } } {
    return { epsilon: { float: this.config.rmsNormEps } };
  }

  /** Every head of x [T, heads·D] by itself; as it is where there is no weight. */
  #normHeads(graph: GraphBuilder, x: string, heads: number, weight: TensorRef | undefined): string {
    if (!weight) return x;
    const { headDim } = this.config;
    const split = graph.node('Reshape', [x, graph.ints(-1, heads, headDim)]);
    return graph.node('Reshape', [this.#norm(graph, split, weight), graph.ints(-1, heads * headDim)]);
  }

  #rotate(graph: GraphBuilder, x: string, { cos, sin }: Angles): string {
    // The operator reads row `position` of a table; the tables have the rows of this step, so positions count from 0.
    const batch = graph.node('Unsqueeze', [x, graph.ints(0)]);
    const rotated = graph.node('RotaryEmbedding', [batch, graph.ints(0), cos, sin], {}, { domain: MICROSOFT });
    return graph.node('Squeeze', [rotated, graph.ints(0)]);
  }
}

/** u = sigmoid(W2 · silu(W1 · x + b1) + b2), [T, G] */
function utility(graph: GraphBuilder, normed: string, { fc1Weight, fc1Bias, fc2Weight, fc2Bias }: PredictorPlan, weights: Weights): string {
  const hidden = silu(graph, weights.exactProduct(graph, normed, fc1Weight, fc1Bias));
  return graph.node('Sigmoid', [weights.exactProduct(graph, hidden, fc2Weight, fc2Bias)]);
}

function silu(graph: GraphBuilder, x: string): string {
  return graph.node('Mul', [x, graph.node('Sigmoid', [x])]);
}
