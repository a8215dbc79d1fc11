import { onnxAttention, onnxLayer, type AttentionOptions, type LayerOptions } from './onnx-oracle.js';
import { OnnxGraph } from './onnx.js';
import { closeOnnx, runOnnx } from './onnx-session.js';

afterAll(closeOnnx);

describe('onnxAttention', () => {
  test.each([
    { T: 1, H: 1, G: 1, D: 32 },
    { T: 17, H: 4, G: 2, D: 64 },
    { T: 33, H: 8, G: 1, D: 16 },
    { T: 9, H: 6, G: 6, D: 128 },
  ])('agrees with a float64 loop: %o', async (sizes) => {
    const options = attentionCase(sizes);
    expectClose(await onnxAttention(options), naiveAttention(options));
  });

  test('honours positions, frequencies and a bias that removes pairs', async () => {
    const T = 24;
    const G = 2;
    const options: AttentionOptions = {
      ...attentionCase({ T, H: 4, G, D: 32 }),
      positions: Array.from({ length: T }, (_, t) => 30_000 + 7 * t),
      inverseFrequencies: Array.from({ length: 16 }, (_, i) => 1 / (1 + i)),
      bias: Float32Array.from({ length: G * T * T }, (_, i) => (i % 3 === 1 && i % T !== Math.floor(i / T) % T ? -Infinity : -(i % 5) / 4)),
    };
    const y = await onnxAttention(options);
    expectClose(y, naiveAttention(options));
    expect(maxDifference(y, naiveAttention({ ...options, bias: new Float32Array(G * T * T) }))).toBeGreaterThan(0.01);
  });

  test('gives an array of the realm of the test', async () => {
    expect(await onnxAttention(attentionCase({ T: 2, H: 1, G: 1, D: 8 }))).toBeInstanceOf(Float32Array);
  });
});

describe('onnxLayer', () => {
  test.each([
    { name: 'plain', qkvBias: false, qkNorm: false },
    { name: 'with q/k/v bias', qkvBias: true, qkNorm: false },
    { name: 'with q/k norm', qkvBias: false, qkNorm: true },
    { name: 'with both', qkvBias: true, qkNorm: true },
  ])('agrees with a float64 loop: $name', async ({ qkvBias, qkNorm }) => {
    const options = layerCase(qkvBias, qkNorm);
    expectClose(await onnxLayer(options), naiveLayer(options));
  });
});

describe('runOnnx', () => {
  test('rejects with the message of onnxruntime and works again afterwards', async () => {
    const graph = new OnnxGraph();
    graph.output(graph.node('NoSuchOperator', [graph.input('x', 'float32', [1])], {}, { outputs: ['y'] }), 'float32', [1]);
    await expect(runOnnx(graph.build(), {})).rejects.toThrow(/NoSuchOperator/);
    await onnxAttention(attentionCase({ T: 1, H: 1, G: 1, D: 8 }));
  });
});

/** Rounding of float32 sums of a few hundred terms, relative to the largest value. */
function expectClose(actual: Float32Array, expected: Float64Array): void {
  expect(actual).toHaveLength(expected.length);
  const largest = expected.reduce((max, value) => Math.max(max, Math.abs(value)), 0);
  expect(maxDifference(actual, expected)).toBeLessThan(32 * 2 ** -23 * Math.max(1, largest));
}

function maxDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let max = 0;
  for (let i = 0; i < a.length; i++) {
    const difference = Math.abs(a[i]! - b[i]!);
    if (!(difference <= max)) max = difference; // NaN sticks
  }
  return max;
}

let seed = 1;
function random(length: number, scale = 1): Float32Array {
  return Float32Array.from({ length }, () => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return (seed / 2 ** 31 - 1) * scale;
  });
}

function attentionCase({ T, H, G, D }: { T: number; H: number; G: number; D: number }): AttentionOptions {
  return { T, H, G, D, q: random(T * H * D), k: random(T * G * D), v: random(T * G * D) };
}

function layerCase(qkvBias: boolean, qkNorm: boolean): LayerOptions {
  const [T, H, G, D, hidden, ffn] = [21, 4, 2, 16, 48, 80];
  const matrix = (out: number, inputs: number) => random(out * inputs, Math.sqrt(3 / inputs));
  return {
    T,
    H,
    G,
    D,
    hidden,
    ffn,
    ropeTheta: 500,
    x: random(T * hidden),
    weights: {
      inputNorm: random(hidden),
      q: matrix(H * D, hidden),
      k: matrix(G * D, hidden),
      v: matrix(G * D, hidden),
      o: matrix(hidden, H * D),
      postNorm: random(hidden),
      gate: matrix(ffn, hidden),
      up: matrix(ffn, hidden),
      down: matrix(hidden, ffn),
      ...(qkvBias && { qBias: random(H * D), kBias: random(G * D), vBias: random(G * D) }),
      ...(qkNorm && { qNorm: random(D, 2), kNorm: random(D, 2) }),
    },
  };
}

type Naive<T> = { [K in keyof T]: T[K] extends Float32Array ? Float32Array | Float64Array : T[K] };

function naiveAttention(options: Naive<AttentionOptions>): Float64Array {
  const { T, H, G, D, v, bias, ropeTheta = 10000, inverseFrequencies, positions } = options;
  const rotate = (x: Float32Array | Float64Array, heads: number) => {
    const y = new Float64Array(x.length);
    for (let row = 0; row < T * heads; row++) {
      const position = positions?.[Math.floor(row / heads)] ?? Math.floor(row / heads);
      for (let i = 0; i < D / 2; i++) {
        const angle = position * (inverseFrequencies?.[i] ?? ropeTheta ** ((-2 * i) / D));
        const [a, b] = [x[row * D + i]!, x[row * D + i + D / 2]!];
        y[row * D + i] = a * Math.cos(angle) - b * Math.sin(angle);
        y[row * D + i + D / 2] = b * Math.cos(angle) + a * Math.sin(angle);
      }
    }
    return y;
  };
  const q = rotate(options.q, H);
  const k = rotate(options.k, G);
  const y = new Float64Array(T * H * D);
  for (let t = 0; t < T; t++) {
    for (let h = 0; h < H; h++) {
      const g = Math.floor(h / (H / G));
      let sum = 0;
      for (let s = 0; s <= t; s++) {
        let dot = 0;
        for (let i = 0; i < D; i++) dot += q[(t * H + h) * D + i]! * k[(s * G + g) * D + i]!;
        const weight = Math.exp(dot / Math.sqrt(D) + (bias?.[(g * T + t) * T + s] ?? 0));
        sum += weight;
        for (let i = 0; i < D; i++) y[(t * H + h) * D + i]! += weight * v[(s * G + g) * D + i]!;
      }
      for (let i = 0; i < D; i++) y[(t * H + h) * D + i]! /= sum;
    }
  }
  return y;
}

function naiveLayer(options: LayerOptions): Float64Array {
  const { T, H, G, D, x, hidden, ffn, weights: w, epsilon = 1e-5 } = options;
  const norm = (values: ArrayLike<number>, weight: Float32Array) => {
    const width = weight.length;
    const y = new Float64Array(values.length);
    for (let row = 0; row < values.length; row += width) {
      let squares = 0;
      for (let i = 0; i < width; i++) squares += values[row + i]! ** 2;
      for (let i = 0; i < width; i++) y[row + i] = (values[row + i]! / Math.sqrt(squares / width + epsilon)) * weight[i]!;
    }
    return y;
  };
  const product = (values: Float64Array, weight: Float32Array, inputs: number, bias?: Float32Array) => {
    const out = weight.length / inputs;
    return Float64Array.from({ length: T * out }, (_, index) => {
      const [t, row] = [Math.floor(index / out), index % out];
      let sum = bias?.[row] ?? 0;
      for (let i = 0; i < inputs; i++) sum += values[t * inputs + i]! * weight[row * inputs + i]!;
      return sum;
    });
  };
  const a = norm(x, w.inputNorm);
  let q = product(a, w.q, hidden, w.qBias);
  let k = product(a, w.k, hidden, w.kBias);
  if (w.qNorm) q = norm(q, w.qNorm);
  if (w.kNorm) k = norm(k, w.kNorm);
  const v = product(a, w.v, hidden, w.vBias);
  const mixed = naiveAttention({ T, H, G, D, q, k, v, ...(options.ropeTheta && { ropeTheta: options.ropeTheta }) });
  const middle = product(mixed, w.o, H * D).map((value, i) => value + x[i]!);
  const b = norm(middle, w.postNorm);
  const up = product(b, w.up, hidden);
  const inner = product(b, w.gate, hidden).map((gate, i) => (gate / (1 + Math.exp(-gate))) * up[i]!);
  return product(inner, w.down, ffn).map((value, i) => value + middle[i]!);
}
