import { gatedAttention, gatedAttentionBackward } from '../../lib/ops.js';
import { normals, random, testDevice } from '../support/device.js';
import { inType, padded, Poisoned } from '../support/operands.js';

type Float = 'f32' | 'bf16';

/** Out, the logarithms and all gradients of two packed documents, computed on tensors of one type. */
async function run(dtype: Float, headDim: number, gates: 'absent' | 'soft' | 'hard', padding: number): Promise<Record<string, Float32Array>> {
  const device = testDevice(undefined, 'bf16');
  const uniform = random(headDim);
  const [offsets, G, H, D] = [[0, 70, 203], 2, 4, headDim];
  const T = offsets.at(-1)!;
  // The same numbers in both types: those that bf16 holds.
  const input = (heads: number) => padded(device, inType(inType(normals(T * heads * D, uniform), 'bf16').values, dtype).data, [T, heads, D], padding);
  const [q, keys, values, dOut] = [input(H), input(G), input(G), input(H)];
  const gate = () => (gates === 'hard' ? (uniform() < 0.5 ? -Infinity : 0) : -5 * uniform());
  const logUtilities = gates === 'absent' ? null : padded(device, Float32Array.from({ length: T * G }, gate), [T, G]);
  const output = (heads: number) => new Poisoned(device, dtype, [T, heads, D], padding);
  const [out, dq, dk, dv] = [output(H), output(H), output(G), output(G)];
  const [logSumExp, dGates] = [new Poisoned(device, 'f32', [T, H]), new Poisoned(device, 'f32', [T, G])];
  const documents = device.from(Int32Array.from(offsets));
  const scale = 1 / Math.sqrt(D);
  gatedAttention(out.view, logSumExp.view, q, keys, values, logUtilities, documents, 40, scale);
  gatedAttentionBackward(dq.view, dk.view, dv.view, logUtilities && dGates.view, dOut, out.view, logSumExp.view, q, keys, values, logUtilities, documents, 40, scale);
  const results = { out, logSumExp, dq, dk, dv, ...(logUtilities && { dGates }) };
  return Object.fromEntries(await Promise.all(Object.entries(results).map(async ([name, result]) => [name, await result.read()] as const)));
}

const rootMeanSquare = (values: Float32Array) => Math.sqrt(values.reduce((sum, x) => sum + x * x, 0) / values.length);

describe('gated attention in bf16', () => {
  // The matrix units take 64 and 128, if rows are multiples of 16 bytes.
  test.each([
    [64, 'soft', 0], [64, 'hard', 16], [128, 'soft', 16], [128, 'hard', 0], [128, 'absent', 0], [64, 'soft', 3], [40, 'hard', 0],
  ] as const)('head size %i, %s gates, %i elements between rows: as in f32, to rounding', async (headDim, gates, padding) => {
    if (testDevice(undefined, 'bf16').name === 'cpu') return; // has f32 only
    const [exact, rounded] = [await run('f32', headDim, gates, padding), await run('bf16', headDim, gates, padding)];
    for (const [name, expected] of Object.entries(exact)) {
      const error = rootMeanSquare(expected.map((x, i) => x - rounded[name]![i]!));
      // Two or three roundings of 2^-9 each; a key or a query that is missed is one part in 203 and more.
      expect([name, error <= 2 ** -7 * rootMeanSquare(expected)]).toEqual([name, true]);
    }
  });
});
