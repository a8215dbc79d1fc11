import { OnnxGraph } from './onnx.js';
import { runOnnx, type OnnxTensor } from './onnx-session.js';

/** Sizes shared by both oracles: T tokens, H query heads, G KV heads, D head size. */
export interface AttentionSizes {
  T: number;
  H: number;
  G: number;
  D: number;
}

export interface RopeOptions {
  /** Base of the rotary frequencies. Defaults to 10000. */
  ropeTheta?: number;
  /** Frequencies [D/2] in place of those of `ropeTheta`, for scaled RoPE. */
  inverseFrequencies?: ArrayLike<number>;
  /** Position of each token [T]. Defaults to 0, 1, 2 ... */
  positions?: ArrayLike<number>;
}

export interface AttentionOptions extends AttentionSizes, RopeOptions {
  q: Float32Array; // [T, H, D], before RoPE
  k: Float32Array; // [T, G, D], before RoPE
  v: Float32Array; // [T, G, D]
  /** Added to the scores of KV head g, query t, key s [G, T, T]; -Infinity removes the pair. */
  bias?: Float32Array;
}

/** Weights of one Llama layer in the layout of checkpoints: projections [out, in], norms and biases [out]. */
export interface LayerWeights {
  inputNorm: Float32Array;
  q: Float32Array;
  k: Float32Array;
  v: Float32Array;
  o: Float32Array;
  postNorm: Float32Array;
  gate: Float32Array;
  up: Float32Array;
  down: Float32Array;
  qBias?: Float32Array;
  kBias?: Float32Array;
  vBias?: Float32Array;
  qNorm?: Float32Array; // [D]
  kNorm?: Float32Array; // [D]
}

export interface LayerOptions extends AttentionSizes, RopeOptions {
  x: Float32Array; // [T, hidden]
  hidden: number;
  ffn: number;
  weights: LayerWeights;
  /** Defaults to 1e-5. */
  epsilon?: number;
  /** As in {@link AttentionOptions}. */
  bias?: Float32Array;
}

/** Causal grouped-query attention with RoPE (the half-rotation form), softmax(q·k/sqrt(D) + bias)·v: [T, H, D]. */
export async function onnxAttention(options: AttentionOptions): Promise<Float32Array> {
  const { T, H, G, D } = options;
  const graph = new OnnxGraph();
  const q = graph.input('q', 'float32', [T, H, D]);
  const k = graph.input('k', 'float32', [T, G, D]);
  const v = graph.input('v', 'float32', [T, G, D]);
  graph.output(attention(graph, q, k, v, options, 'y'), 'float32', [T, H, D]);
  const feeds = { q: float(options.q, T, H, D), k: float(options.k, T, G, D), v: float(options.v, T, G, D) };
  return first(await runOnnx(graph.build(), feeds));
}

/** One whole Llama layer on x [T, hidden]: attention block and gated MLP, both with their residual: [T, hidden]. */
export async function onnxLayer(options: LayerOptions): Promise<Float32Array> {
  const { T, H, G, D, hidden, ffn, weights: w, epsilon = 1e-5 } = options;
  const graph = new OnnxGraph();
  const x = graph.input('x', 'float32', [T, hidden]);

  const normed = rmsNorm(graph, x, w.inputNorm, epsilon);
  const heads = (rows: string, count: number) => graph.node('Reshape', [rows, graph.ints(T, count, D)]);
  let q = heads(linear(graph, normed, w.q, H * D, hidden, w.qBias), H);
  let k = heads(linear(graph, normed, w.k, G * D, hidden, w.kBias), G);
  const v = heads(linear(graph, normed, w.v, G * D, hidden, w.vBias), G);
  if (w.qNorm) q = rmsNorm(graph, q, w.qNorm, epsilon);
  if (w.kNorm) k = rmsNorm(graph, k, w.kNorm, epsilon);
  const mixed = graph.node('Reshape', [attention(graph, q, k, v, options), graph.ints(T, H * D)]);
  const middle = graph.node('Add', [x, linear(graph, mixed, w.o, hidden, H * D)]);

  const normed2 = rmsNorm(graph, middle, w.postNorm, epsilon);
  const gate = linear(graph, normed2, w.gate, ffn, hidden);
  const silu = graph.node('Mul', [gate, graph.node('Sigmoid', [gate])]);
  const inner = graph.node('Mul', [silu, linear(graph, normed2, w.up, ffn, hidden)]);
  const y = graph.node('Add', [middle, linear(graph, inner, w.down, hidden, ffn)], {}, { outputs: ['y'] });
  graph.output(y, 'float32', [T, hidden]);
  return first(await runOnnx(graph.build(), { x: float(options.x, T, hidden) }));
}

/** RoPE on q [T,H,D] and k [T,G,D], then attention of the group's H/G query heads over its KV head: [T,H,D]. */
function attention(
  graph: OnnxGraph,
  q: string,
  k: string,
  v: string,
  options: AttentionSizes & RopeOptions & { bias?: Float32Array },
  output?: string,
): string {
  const { T, H, G, D } = options;
  const tables = ropeTables(graph, options);
  // [T, heads, D] -> [G, heads per group, T, D]; the size-1 axis of k and v broadcasts over the group.
  const grouped = (value: string, perGroup: number) => {
    const split = graph.node('Reshape', [value, graph.ints(T, G, perGroup, D)]);
    return graph.node('Transpose', [split], { perm: [1, 2, 0, 3] });
  };
  const queries = grouped(rope(graph, q, D, tables), H / G);
  const keys = graph.node('Transpose', [grouped(rope(graph, k, D, tables), 1)], { perm: [0, 1, 3, 2] });
  const values = grouped(v, 1);

  const products = graph.node('MatMul', [queries, keys]);
  const scores = graph.node('Mul', [products, graph.scalar(1 / Math.sqrt(D))]);
  const masked = graph.node('Add', [scores, graph.constant(causalBias(T, G, options.bias), [G, 1, T, T])]);
  const mixed = graph.node('MatMul', [graph.node('Softmax', [masked], { axis: -1 }), values]);
  const back = graph.node('Transpose', [mixed], { perm: [2, 0, 1, 3] });
  return graph.node('Reshape', [back, graph.ints(T, H, D)], {}, output ? { outputs: [output] } : {});
}

interface RopeTables {
  cos: string; // [T, 1, D]
  sin: string;
}

/** Angles in float64, so that large positions lose nothing. */
function ropeTables(graph: OnnxGraph, { T, D, ropeTheta = 10000, inverseFrequencies, positions }: AttentionSizes & RopeOptions): RopeTables {
  const cos = new Float32Array(T * D);
  const sin = new Float32Array(T * D);
  for (let t = 0; t < T; t++) {
    for (let i = 0; i < D; i++) {
      const pair = i % (D / 2);
      const angle = (positions?.[t] ?? t) * (inverseFrequencies?.[pair] ?? ropeTheta ** ((-2 * pair) / D));
      cos[t * D + i] = Math.cos(angle);
      sin[t * D + i] = Math.sin(angle);
    }
  }
  return { cos: graph.constant(cos, [T, 1, D]), sin: graph.constant(sin, [T, 1, D]) };
}

/** x·cos + (-second half, first half)·sin over the last axis. */
function rope(graph: OnnxGraph, x: string, D: number, { cos, sin }: RopeTables): string {
  const slice = (from: number, to: number) => graph.node('Slice', [x, graph.ints(from), graph.ints(to), graph.ints(-1)]);
  const rotated = graph.node('Concat', [graph.node('Neg', [slice(D / 2, D)]), slice(0, D / 2)], { axis: -1 });
  return graph.node('Add', [graph.node('Mul', [x, cos]), graph.node('Mul', [rotated, sin])]);
}

function causalBias(T: number, G: number, bias: Float32Array | undefined): Float32Array {
  const full = new Float32Array(G * T * T);
  for (let i = 0; i < full.length; i++) {
    const s = i % T;
    const t = Math.floor(i / T) % T;
    full[i] = s > t ? -Infinity : (bias?.[i] ?? 0);
  }
  return full;
}

/** x / sqrt(mean(x²) + epsilon) · weight over the last axis. */
function rmsNorm(graph: OnnxGraph, x: string, weight: Float32Array, epsilon: number): string {
  const mean = graph.node('ReduceMean', [graph.node('Mul', [x, x]), graph.ints(-1)], { keepdims: 1 });
  const scale = graph.node('Sqrt', [graph.node('Add', [mean, graph.scalar(epsilon)])]);
  return graph.node('Mul', [graph.node('Div', [x, scale]), graph.constant(weight)]);
}

function linear(graph: OnnxGraph, x: string, weight: Float32Array, out: number, inputs: number, bias?: Float32Array): string {
  const tensors = [x, graph.constant(weight, [out, inputs])];
  if (bias) tensors.push(graph.constant(bias, [out]));
  return graph.node('Gemm', tensors, { transB: 1 });
}

function float(data: Float32Array, ...dims: number[]): OnnxTensor {
  return { type: 'float32', data, dims };
}

function first(outputs: Record<string, OnnxTensor>): Float32Array {
  return outputs.y!.data as Float32Array;
}
