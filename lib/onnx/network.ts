import type { ModelConfig } from '../checkpoint/config.js';
import type { PredictorPlan, TensorRef, WeightPlan } from '../checkpoint/weights.js';
import { inverseFrequencies } from '../model/rope.js';
import type { AttentionInputs, SplitDecoder } from './forms.js';
import { type GraphBuilder, MICROSOFT } from './graph.js';
import { predictUtility, silu } from './predictor.js';
import type { Weights } from './weights.js';

/** The residual stream [T, C], and what its norm makes of it for the product that comes next. */
interface Hidden {
  residual: string;
  normed: string;
}

/** Cosines and sines [T, D/2] of the rotary embedding. */
interface Angles {
  cos: string;
  sin: string;
}

/** The decoder of a checkpoint: lib/model/forward.ts in ONNX. */
export class Network implements SplitDecoder {
  readonly #angles = new WeakMap<GraphBuilder, Angles>();

  constructor(
    readonly geometry: ModelConfig,
    private readonly plan: WeightPlan,
    private readonly weights: Weights,
  ) {}

  get window(): number | undefined {
    return this.geometry.spkv?.window;
  }

  begin(graph: GraphBuilder, ids: string, positions: string): AttentionInputs {
    const residual = this.weights.rows(graph, this.plan.embedTokens, ids);
    return this.#attentionInputs(graph, 0, { residual, normed: this.#norm(graph, residual, this.plan.layers[0]!.inputNorm) }, positions);
  }

  between(graph: GraphBuilder, layer: number, context: string, residual: string, positions: string): AttentionInputs {
    return this.#attentionInputs(graph, layer + 1, this.#afterAttention(graph, layer, context, residual), positions);
  }

  end(graph: GraphBuilder, context: string, residual: string): string {
    const { normed } = this.#afterAttention(graph, this.geometry.layers - 1, context, residual);
    return this.weights.product(graph, normed, this.plan.lmHead ?? this.plan.embedTokens);
  }

  #attentionInputs(graph: GraphBuilder, layer: number, { residual, normed }: Hidden, positions: string): AttentionInputs {
    const { heads, kvHeads } = this.geometry;
    const { qProj, kProj, vProj, qBias, kBias, vBias, qNorm, kNorm, predictor } = this.plan.layers[layer]!;
    const angles = this.#anglesOf(graph, positions);
    const query = this.weights.product(graph, normed, qProj, qBias);
    const key = this.weights.product(graph, normed, kProj, kBias);
    return {
      query: this.#rotate(graph, this.#normHeads(graph, query, heads, qNorm), angles),
      key: this.#rotate(graph, this.#normHeads(graph, key, kvHeads, kNorm), angles),
      value: this.weights.product(graph, normed, vProj, vBias),
      utility: predictor && this.#utility(graph, normed, predictor),
      residual,
    };
  }

  #afterAttention(graph: GraphBuilder, layer: number, context: string, residual: string): Hidden {
    const { oProj, oBias, postNorm, gateProj, gateBias, upProj, upBias, downProj, downBias } = this.plan.layers[layer]!;
    const attended = this.#addNorm(graph, residual, this.weights.product(graph, context, oProj, oBias), postNorm);
    const gate = silu(graph, this.weights.product(graph, attended.normed, gateProj, gateBias));
    const activated = graph.node('Mul', [gate, this.weights.product(graph, attended.normed, upProj, upBias)]);
    const next = this.plan.layers[layer + 1]?.inputNorm ?? this.plan.finalNorm;
    return this.#addNorm(graph, attended.residual, this.weights.product(graph, activated, downProj, downBias), next);
  }

  #utility(graph: GraphBuilder, normed: string, { fc1Weight, fc1Bias, fc2Weight, fc2Bias }: PredictorPlan): string {
    const at = (ref: TensorRef) => this.weights.floats(graph, ref);
    return predictUtility(graph, normed, { fc1Weight: at(fc1Weight), fc1Bias: at(fc1Bias), fc2Weight: at(fc2Weight), fc2Bias: at(fc2Bias) });
  }

  /** In f64, as the native model computes them: at position 100,000 an angle in f32 is off by hundredths. Once for a graph. */
  #anglesOf(graph: GraphBuilder, positions: string): Angles {
    let there = this.#angles.get(graph);
    if (!there) {
      const frequencies = Float64Array.from(inverseFrequencies(this.geometry));
      const column = graph.node('Unsqueeze', [graph.node('Cast', [positions], { to: 11 }), graph.ints(1)]);
      const angles = graph.node('Mul', [column, graph.constant(frequencies, [1, frequencies.length])]);
      const quarterTurn = graph.constant(Float64Array.of(Math.PI / 2), []);
      there = {
        // onnxruntime has no cosine in f64.
        cos: graph.node('Cast', [graph.node('Sin', [graph.node('Add', [angles, quarterTurn])])], { to: 1 }),
        sin: graph.node('Cast', [graph.node('Sin', [angles])], { to: 1 }),
      };
      this.#angles.set(graph, there);
    }
    return there;
  }

  #norm(graph: GraphBuilder, x: string, weight: TensorRef): string {
    return graph.node('SimplifiedLayerNormalization', [x, this.weights.floats(graph, weight)], this.#epsilon);
  }

  /** residual + x, and its norm, in one node. */
  #addNorm(graph: GraphBuilder, residual: string, x: string, weight: TensorRef): Hidden {
    const normed = graph.fresh('normed');
    const sum = graph.fresh('residual');
    const inputs = [residual, x, this.weights.floats(graph, weight)];
    graph.node('SkipSimplifiedLayerNormalization', inputs, this.#epsilon, { domain: MICROSOFT, outputs: [normed, '', '', sum] });
    return { residual: sum, normed };
  }

  get #epsilon(): { epsilon: { float: number } } {
    return { epsilon: { float: this.geometry.rmsNormEps } };
  }

  /** Every head of x [T, heads·D] by itself; x as it is where there is no weight. */
  #normHeads(graph: GraphBuilder, x: string, heads: number, weight: TensorRef | undefined): string {
    if (!weight) return x;
    const { headDim } = this.geometry;
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
