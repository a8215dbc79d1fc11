import type { GraphBuilder } from './graph.js';

/** The weights of a utility predictor, in f32, by their names in the graph. */
export interface PredictorWeights {
  /** [P, C], [P], [G, P], [G] */
  fc1Weight: string;
  fc1Bias: string;
  fc2Weight: string;
  fc2Bias: string;
}

/** u = sigmoid(W2 · silu(W1 · x + b1) + b2) of hidden states [T, C]: [T, G]. See native/ops/predict_utility.h. */
export function predictUtility(graph: GraphBuilder, hidden: string, { fc1Weight, fc1Bias, fc2Weight, fc2Bias }: PredictorWeights): string {
  const inner = silu(graph, graph.node('Gemm', [hidden, fc1Weight, fc1Bias], { transB: 1 }));
  return graph.node('Sigmoid', [graph.node('Gemm', [inner, fc2Weight, fc2Bias], { transB: 1 })]);
}

export function silu(graph: GraphBuilder, x: string): string {
  return graph.node('Mul', [x, graph.node('Sigmoid', [x])]);
}
