import fc from 'fast-check';
import { predictUtility } from '../../lib/ops.js';
import { normals, random } from '../support/device.js';
import {
  expectClose, F32_ROUNDING, floatTypes, inType, padded, paddings, Poisoned, refusal, rowCounts, RUNS, seeds,
  testDevices,
} from '../support/operands.js';

const sigmoid = (z: number) => 1 / (1 + Math.exp(-z));
const logSigmoid = (z: number) => Math.min(z, 0) - Math.log1p(Math.exp(-Math.abs(z)));

describe.each(testDevices())('predict_utility on %s', (_, device) => {
  test('agrees with float64', async () => {
    const property = fc.asyncProperty(
      rowCounts, fc.oneof(fc.integer({ min: 1, max: 130 }), fc.integer({ min: 500, max: 1100 })), fc.integer({ min: 1, max: 20 }),
      floatTypes, floatTypes, fc.boolean(), paddings, seeds,
      async (rows, P, G, weightType, biasType, log, padding, seed) => {
        const T = P > 130 ? Math.min(rows, 40) : rows;
        const uniform = random(seed);
        const hidden = normals(T * P, uniform, 2);
        const weight = inType(normals(G * P, uniform, 3 / Math.sqrt(P)), weightType);
        const bias = inType(normals(G, uniform, 5), biasType);
        const expected = new Float64Array(T * G);
        const tolerance = new Float64Array(T * G);
        for (let t = 0; t < T; t++) {
          for (let g = 0; g < G; g++) {
            let z = bias.values[g]!;
            let size = Math.abs(z);
            for (let p = 0; p < P; p++) {
              const h = hidden[t * P + p]!;
              const term = weight.values[g * P + p]! * h * sigmoid(h);
              z += term;
              size += Math.abs(term);
            }
            const u = sigmoid(z);
            const at = t * G + g;
            expected[at] = log ? logSigmoid(z) : u;
            // P additions whose errors are as often up as down, then the slope of the last function.
            const slope = log ? sigmoid(-z) : u * sigmoid(-z);
            tolerance[at] = F32_ROUNDING * ((8 + Math.sqrt(P)) * size * slope + 5 * Math.abs(expected[at]!));
          }
        }
        const out = new Poisoned(device, 'f32', [T, G], padding);
        predictUtility(
          out.view, padded(device, hidden, [T, P], (padding * 3) % 7), padded(device, weight.data, [G, P], padding),
          device.from(bias.data, [G]), log ? 'log' : 'utility',
        );
        expectClose(await out.read(), expected, (i) => tolerance[i]!);
      },
    );
    await fc.assert(property, RUNS);
  });

  // With a hidden vector of zeros the bias is z.
  const biases = Float32Array.of(0, 5, 20, 85, 1000, -5, -20, -85, -1000, Infinity, -Infinity, NaN, 1e-6, -1e-6, 0.5, -0.5, -0);
  const run = async (log: boolean) => {
    const G = biases.length;
    const out = device.tensor('f32', [1, G]);
    predictUtility(out, device.tensor('f32', [1, 3]), device.tensor('f32', [G, 3]), device.from(biases, [G]), log ? 'log' : 'utility');
    return out.read();
  };

  test('logsigmoid keeps its digits at both ends', async () => {
    const expected = Float64Array.from(biases, logSigmoid);
    expected[10] = -Infinity;
    expectClose(await run(true), expected, (i) => 5 * F32_ROUNDING * Math.abs(expected[i]!));
  });

  test('sigmoid saturates to 0 and 1 and keeps NaN', async () => {
    const expected = Float64Array.from(biases, sigmoid);
    expectClose(await run(false), expected, (i) => 5 * F32_ROUNDING * Math.abs(expected[i]!));
  });

  test('NaN in one token stays in that token', async () => {
    const hidden = new Float32Array(2 * 37).fill(1);
    hidden[36] = NaN;
    const out = device.tensor('f32', [2, 3]);
    predictUtility(out, device.from(hidden, [2, 37]), device.tensor('f32', [3, 37]), device.tensor('f32', [3]));
    expect(Array.from(await out.read())).toEqual([NaN, NaN, NaN, 0.5, 0.5, 0.5]);
  });

  test('arguments are checked', () => {
    const out = device.tensor('f32', [2, 3]);
    const hidden = device.tensor('f32', [2, 8]);
    const weight = device.tensor('f32', [3, 8]);
    const bias = device.tensor('f32', [3]);
    expect(refusal(() => predictUtility(device.tensor('bf16', [2, 3]), hidden, weight, bias))).toBe('DTYPE');
    expect(refusal(() => predictUtility(out, device.tensor('bf16', [2, 8]), weight, bias))).toBe('DTYPE');
    expect(refusal(() => predictUtility(out, hidden, device.tensor('i32', [3, 8]), bias))).toBe('DTYPE');
    expect(refusal(() => predictUtility(out, hidden, weight, device.tensor('u8', [3])))).toBe('DTYPE');
    expect(refusal(() => predictUtility(out, device.tensor('f32', [3, 8]), weight, bias))).toBe('SHAPE');
    expect(refusal(() => predictUtility(out, hidden, device.tensor('f32', [4, 8]), bias))).toBe('SHAPE');
    expect(refusal(() => predictUtility(out, hidden, device.tensor('f32', [3, 7]), bias))).toBe('SHAPE');
    expect(refusal(() => predictUtility(out, hidden, weight, device.tensor('f32', [2])))).toBe('SHAPE');
    expect(refusal(() => predictUtility(out, hidden, weight, bias, 1 as never))).toBe('INVALID_ARGUMENT');
    for (const form of ['logs', { alpha: 0.5 }, { alpha: 2, threshold: 0.5 }, { alpha: 0.5, threshold: NaN }, { alpha: 0, threshold: 0, tau: 1 }]) {
      expect(refusal(() => predictUtility(out, hidden, weight, bias, form as never))).toBe('INVALID_ARGUMENT');
    }
  });
});
