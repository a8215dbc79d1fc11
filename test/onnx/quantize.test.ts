import { BLOCK, blocksPerRow, quantize } from '../../lib/onnx/quantize.js';
import { GraphBuilder, MICROSOFT } from '../../lib/onnx/graph.js';
import { loadCodec } from '../../lib/onnx/schema.js';
import { normals, random } from '../support/device.js';
import { closeOnnx, runOnnx } from '../support/onnx-session.js';

afterAll(closeOnnx);

/** Weights [N, K] that blocks stand for: scale · (q - middle), by the words of quantize.ts. */
function expand({ packed, scales }: ReturnType<typeof quantize>, n: number, k: number, bits: 4 | 8): Float64Array {
  return Float64Array.from({ length: n * k }, (_, i) => {
    const column = i % k;
    const block = Math.floor(i / k) * blocksPerRow(k) + Math.floor(column / BLOCK);
    const at = block * BLOCK + (column % BLOCK);
    const level = bits === 8 ? packed[at]! - 128 : ((packed[at >> 1]! >> (4 * (at & 1))) & 15) - 8;
    return scales[block]! * level;
  });
}

const blockOf = (weights: ArrayLike<number>, k: number, i: number) => {
  const start = i - ((i % k) % BLOCK);
  return Array.from({ length: Math.min(BLOCK, k - (start % k)) }, (_, j) => weights[start + j]!);
};

describe.each([4, 8] as const)('%i bits', (bits) => {
  test.each([[1, 32], [3, 64], [5, 40], [2, 7], [7, 129]])('%i rows of %i weights lie near the levels of their blocks', (n, k) => {
    const weights = normals(n * k, random(n * k + bits), 0.2);
    const expanded = expand(quantize(weights, k, bits), n, k, bits);
    expanded.forEach((value, i) => {
      const largest = Math.max(...blockOf(weights, k, i).map(Math.abs));
      // Half a step; with 4 bits the end without the largest weight is one step shorter.
      const step = largest / (bits === 4 ? 8 : 127);
      const allowed = bits === 4 && Math.abs(weights[i]!) > 7.5 * step ? step : step / 2;
      expect(Math.abs(value - weights[i]!)).toBeLessThanOrEqual(allowed * (1 + 1e-6));
    });
  });

  test('weights that are levels stay what they are, and zeros zeros', () => {
    const uniform = random(5);
    const levels = bits === 4 ? 8 : 127;
    const weights = Float32Array.from({ length: 4 * BLOCK }, (_, i) => (i % BLOCK === 3 ? -levels : Math.floor((2 * uniform() - 1) * (levels - 1))) / 64);
    expect([...expand(quantize(weights, 2 * BLOCK, bits), 2, 2 * BLOCK, bits)]).toEqual([...weights]);
    expect([...expand(quantize(new Float32Array(40), 40, bits), 1, 40, bits)]).toEqual(new Array(40).fill(0));
  });

  test.each([[16, 64], [24, 40]])('onnxruntime multiplies with %i rows of %i as they say', async (n, k) => {
    const uniform = random(9);
    const blocks = quantize(normals(n * k, uniform, 0.2), k, bits);
    const x = normals(3 * k, uniform);
    const graph = new GraphBuilder('product');
    const packed = graph.tensor({ name: 'packed', dims: [n, blocksPerRow(k), (BLOCK * bits) / 8], data_type: 2, raw_data: blocks.packed });
    const product = graph.node('MatMulNBits', [graph.input('x', 'f32', [3, k]), packed, graph.constant(blocks.scales)], {
      K: k, N: n, bits, block_size: BLOCK, accuracy_level: 4,
    }, { domain: MICROSOFT });
    graph.output('y', product, 'f32', [3, n]);
    const { y } = await runOnnx((await loadCodec()).encode(graph.build()), { x: { type: 'float32', data: x, dims: [3, k] } });
    const weights = expand(blocks, n, k, bits);
    for (let t = 0; t < 3; t++) {
      for (let row = 0; row < n; row++) {
        let [sum, allowed] = [0, 0];
        for (let c = 0; c < k; c++) {
          const [a, w] = [x[t * k + c]!, weights[row * k + c]!];
          sum += a * w;
          // onnxruntime rounds a block of x to 8 bits: half a step of largest / 127. To that come roundings in f32.
          allowed += (Math.abs(w) * Math.max(...blockOf(x, k, t * k + c).map(Math.abs))) / 254 + Math.abs(a * w) * (k + 2) * 2 ** -23;
        }
        expect(Math.abs((y!.data as Float32Array)[t * n + row]! - sum)).toBeLessThanOrEqual(allowed * (1 + 1e-4));
      }
    }
  });
});
