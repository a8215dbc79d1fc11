import fc from 'fast-check';
import { predictUtility, predictUtilityBackward } from '../../lib/ops.js';
import { normals, random } from '../support/device.js';
import { differences, dot, expectGradient } from '../support/gradients.js';
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

  test('the annealed form leads from log u to 0 or -Infinity, with all digits', async () => {
    const property = fc.asyncProperty(
      fc.oneof(fc.constantFrom(0, 1, 1e-6, 1 - 2 ** -24), fc.double({ min: 0, max: 1, noNaN: true })),
      fc.oneof(fc.constantFrom(0, 0.5, 1), fc.double({ min: 0, max: 1, noNaN: true })), seeds,
      async (given, level, seed) => {
        const [alpha, threshold] = [Math.fround(given), Math.fround(level)];
        const uniform = random(seed);
        const z = Float32Array.from({ length: 40 }, () => 60 * uniform() * (uniform() - 0.5));
        const G = z.length;
        const [out, u] = [device.tensor('f32', [1, G]), device.tensor('f32', [1, G])];
        const operands = [device.tensor('f32', [1, 3]), device.tensor('f32', [G, 3]), device.from(z, [G])] as const;
        predictUtility(out, ...operands, { alpha, threshold });
        predictUtility(u, ...operands);
        const kept = (await u.readFloats()).map((value) => (value >= threshold ? 1 : 0));
        const expected = Float64Array.from(z, (value, i) => {
          if (!kept[i]) return Math.log1p(-alpha) + logSigmoid(value);
          return alpha === 0 ? logSigmoid(value) : sigmoid(value) < 0.5 ? Math.log(alpha + (1 - alpha) * sigmoid(value)) : Math.log1p((alpha - 1) * sigmoid(-value));
        });
        expectClose(await out.readFloats(), expected, (i) => 8 * F32_ROUNDING * (Math.abs(expected[i]!) + (kept[i] && expected[i]! < -0.5 ? 1 : 0)));
      },
    );
    await fc.assert(property, RUNS);
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
    expect(refusal(() => predictUtility(out, device.tensor('bf16', [2, 8]), weight, bias))).toBe(device.name === 'cpu' ? 'DTYPE' : 'no error');
    expect(refusal(() => predictUtility(out, device.tensor('i32', [2, 8]), weight, bias))).toBe('DTYPE');
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

describe.each(testDevices())('predict_utility_backward on %s', (_, device) => {
  test('agrees with differences of the log utility', async () => {
    const property = fc.asyncProperty(
      fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 6 }), floatTypes, paddings, seeds,
      async (T, P, G, type, padding, seed) => {
        const uniform = random(seed);
        const [given, dy] = [normals(T * P, uniform, 2), normals(T * G, uniform)];
        const [weights, biases] = [inType(normals(G * P, uniform, 2 / Math.sqrt(P)), type), inType(normals(G, uniform, 3), type)];
        const before = { weight: normals(G * P, uniform), bias: normals(G, uniform) };
        const [hidden, weight, bias] = [given, weights.values, biases.values].map((values) => Float64Array.from(values)) as [Float64Array, Float64Array, Float64Array];
        const lossOf = (t: number) => {
          const activated = hidden.subarray(t * P, (t + 1) * P).map((h) => h * sigmoid(h));
          let loss = 0;
          for (let g = 0; g < G; g++) loss += dy[t * G + g]! * logSigmoid(bias[g]! + dot(activated, weight.subarray(g * P, (g + 1) * P)));
          return loss;
        };
        const loss = () => Array.from({ length: T }, (_unused, t) => lossOf(t)).reduce((sum, value) => sum + value, 0);
        const expectedHidden = new Float64Array(T * P);
        for (let t = 0; t < T; t++) expectedHidden.set(differences(() => lossOf(t), hidden.subarray(t * P, (t + 1) * P)), t * P);

        const dHidden = new Poisoned(device, 'f32', [T, P], padding);
        const dWeight = new Poisoned(device, 'f32', [G, P], padding);
        dWeight.view.write(before.weight);
        const dBias = device.from(before.bias);
        predictUtilityBackward(
          dHidden.view, dWeight.view, dBias, padded(device, dy, [T, G], padding), padded(device, given, [T, P], (padding * 3) % 7),
          padded(device, weights.data, [G, P], padding), device.from(biases.data),
        );
        expectGradient(await dHidden.read(), expectedHidden, 256);
        expectGradient(await dWeight.read(), differences(loss, weight).map((value, i) => value + before.weight[i]!), 256);
        expectGradient(await dBias.readFloats(), differences(loss, bias).map((value, i) => value + before.bias[i]!), 256);
      },
    );
    await fc.assert(property, RUNS);
  });

  test.each([[700, 64, 2], [90, 200, 11], [40, 130, 17], [33, 512, 8]])('%i tokens of %i activations and %i heads agree with the formula', async (T, P, G) => {
    const [hidden, weight, bias, dy] = [T * P, G * P, G, T * G].map((size, seed) => normals(size, random(seed + T))) as [Float32Array, Float32Array, Float32Array, Float32Array];
    const scaled = weight.map((value) => value / Math.sqrt(P));
    const [dHidden, dWeight, dBias] = [new Float64Array(T * P), new Float64Array(G * P), new Float64Array(G)];
    const [ofHidden, ofWeight, ofBias] = [new Float64Array(T * P), new Float64Array(G * P), new Float64Array(G)]; // their errors, in roundings
    for (let t = 0; t < T; t++) {
      const h = hidden.subarray(t * P, (t + 1) * P);
      const activated = Float64Array.from(h, (value) => value * sigmoid(value));
      const slope = Float64Array.from(h, (value) => sigmoid(value) * (1 + value * sigmoid(-value)));
      const slopeTerms = Float64Array.from(h, (value) => sigmoid(value) * (1 + Math.abs(value) * sigmoid(-value)));
      for (let g = 0; g < G; g++) {
        const w = scaled.subarray(g * P, (g + 1) * P);
        const dz = dy[t * G + g]! * sigmoid(-bias[g]! - dot(activated, w));
        // A dozen roundings of each term, those of the sum, and the logit's, which the gradient follows.
        const logitTerms = Math.abs(bias[g]!) + activated.reduce((sum, value, i) => sum + Math.abs(value * w[i]!), 0);
        const error = Math.abs(dz) * (16 + T + G + (P / 32 + 9) * logitTerms);
        dBias[g]! += dz;
        ofBias[g]! += error;
        for (let i = 0; i < P; i++) {
          dWeight[g * P + i]! += dz * activated[i]!;
          ofWeight[g * P + i]! += error * Math.abs(activated[i]!);
          dHidden[t * P + i]! += dz * w[i]! * slope[i]!;
          ofHidden[t * P + i]! += error * Math.abs(w[i]!) * slopeTerms[i]!;
        }
      }
    }
    const out = { hidden: new Poisoned(device, 'f32', [T, P], 0), weight: device.tensor('f32', [G, P]), bias: device.tensor('f32', [G]) };
    predictUtilityBackward(out.hidden.view, out.weight, out.bias, device.from(dy, [T, G]), device.from(hidden, [T, P]), device.from(scaled, [G, P]), device.from(bias));
    expectClose(await out.hidden.read(), dHidden, (i) => F32_ROUNDING * ofHidden[i]!);
    expectClose(await out.weight.readFloats(), dWeight, (i) => F32_ROUNDING * ofWeight[i]!);
    expectClose(await out.bias.readFloats(), dBias, (i) => F32_ROUNDING * ofBias[i]!);
  });

  test('a gate that is wide open or closed has the limits of its slope', async () => {
    const G = 4;
    const bias = device.from(Float32Array.of(100, -100, 1000, -1000));
    const dBias = device.tensor('f32', [G]);
    const one = device.from(new Float32Array(G).fill(1), [1, G]);
    predictUtilityBackward(device.tensor('f32', [1, 2]), device.tensor('f32', [G, 2]), dBias, one, device.tensor('f32', [1, 2]), device.tensor('f32', [G, 2]), bias);
    expectClose(await dBias.readFloats(), [0, 1, 0, 1], () => 1e-30);
  });

  test('arguments are checked', () => {
    const f32 = (...shape: number[]) => device.tensor('f32', shape);
    const good: Parameters<typeof predictUtilityBackward> = [f32(2, 8), f32(3, 8), f32(3), f32(2, 3), f32(2, 8), f32(3, 8), f32(3)];
    const refused = (index: number, value: unknown) => refusal(() => predictUtilityBackward(...(good.with(index, value as never) as typeof good)));
    for (const [index, tensor] of good.entries()) {
      expect(refused(index, device.tensor('i32', tensor.shape))).toBe('DTYPE');
      expect(refused(index, f32(...tensor.shape.with(tensor.shape.length - 1, 9)))).toBe('SHAPE');
      expect(refused(index, undefined)).toBe('INVALID_ARGUMENT');
    }
    expect(refused(1, good[5])).toBe('INVALID_ARGUMENT');
    expect(refused(2, good[6])).toBe('INVALID_ARGUMENT');
  });
});
