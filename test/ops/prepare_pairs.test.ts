import fc from 'fast-check';
import { type Device, matmul, packWeight, preparePairs } from '../../lib/ops.js';
import { normals, random } from '../support/device.js';
import {
  expectClose, F32_ROUNDING, floatTypes, inType, padded, paddings, Poisoned, refusal, RUNS, seeds, testDevices,
} from '../support/operands.js';

const cases = fc.record({
  T: fc.oneof({ weight: 5, arbitrary: fc.integer({ min: 1, max: 6 }) }, fc.constant(70)),
  G: fc.integer({ min: 1, max: 5 }),
  group: fc.integer({ min: 1, max: 6 }),
  half: fc.oneof(fc.integer({ min: 1, max: 64 }), fc.constantFrom(32, 64, 128)),
  norms: fc.constantFrom('none' as const, 'f32' as const, 'bf16' as const),
  /** 0: no predictor. */
  P: fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 300 })),
  weightType: floatTypes,
  biasType: floatTypes,
  log: fc.boolean(),
  padding: paddings,
  seed: seeds,
});
type Case = typeof cases extends fc.Arbitrary<infer T> ? T : never;

const EPSILON = Math.fround(1e-5);
const sigmoid = (z: number) => 1 / (1 + Math.exp(-z));

/** A head, normalised and rotated; `size` says how large the numbers are that cancel. */
function rotated(head: Float32Array, norm: Float32Array | null, angles: Float32Array): { out: number[]; size: number[] } {
  const D = head.length;
  const half = D / 2;
  const scale = norm ? 1 / Math.sqrt(head.reduce((sum, x) => sum + x * x, 0) / D + EPSILON) : 1;
  const x = Array.from(head, (value, i) => value * scale * (norm ? norm[i]! : 1));
  const pick = (combine: (a: number, b: number, i: number) => number) => x.map((_, i) => combine(x[i % half]!, x[(i % half) + half]!, i % half));
  const turn = pick((a, b, i) => a * angles[i]! - b * angles[half + i]!).slice(0, half);
  const back = pick((a, b, i) => b * angles[i]! + a * angles[half + i]!).slice(0, half);
  const first = pick((a, b, i) => Math.abs(a * angles[i]!) + Math.abs(b * angles[half + i]!)).slice(0, half);
  const second = pick((a, b, i) => Math.abs(b * angles[i]!) + Math.abs(a * angles[half + i]!)).slice(0, half);
  return { out: [...turn, ...back], size: [...first, ...second] };
}

async function check(device: Device, given: Case): Promise<void> {
  const { T, G, group, half, norms, P, weightType, biasType, log, padding } = given;
  const [H, D] = [G * group, 2 * half];
  const uniform = random(given.seed);
  const N = (H + 2 * G) * D + P;
  const qkv = normals(T * N, uniform, 2);
  const angles = Float32Array.from({ length: T * D }, () => 2 * uniform() - 1);
  const norm = () => (norms === 'none' ? null : inType(normals(D, uniform), norms));
  const [qNorm, kNorm] = [norm(), norm()];
  const weight = inType(normals(G * P, uniform, 2 / Math.sqrt(Math.max(1, P))), weightType);
  const bias = inType(normals(G, uniform, 3), biasType);

  const q = new Poisoned(device, 'f32', [T, H, D], padding);
  const keys = new Poisoned(device, 'f32', [T, G, D], (padding * 3) % 7);
  const values = new Poisoned(device, 'f32', [T, G, D], padding);
  const utilities = P > 0 ? new Poisoned(device, 'f32', [T, G], padding) : null;
  preparePairs(
    q.view, keys.view, values.view, utilities && utilities.view, padded(device, qkv, [T, N], padding), padded(device, angles, [T, D], padding),
    qNorm && { q: device.from(qNorm.data, [D]), k: device.from(kNorm!.data, [D]), epsilon: EPSILON },
    utilities && { weight: padded(device, weight.data, [G, P], padding), bias: device.from(bias.data, [G]) }, log,
  );

  const rounding = (norms === 'none' ? 2 : D / 32 + 11) * F32_ROUNDING;
  const heads = async (tensor: Poisoned, count: number, start: number, factors: Float32Array | null) => {
    const expected: number[] = [];
    const size: number[] = [];
    for (let t = 0; t < T; t++) {
      for (let h = 0; h < count; h++) {
        const at = t * N + (start + h) * D;
        const head = rotated(qkv.subarray(at, at + D), factors, angles.subarray(t * D, (t + 1) * D));
        expected.push(...head.out);
        size.push(...head.size);
      }
    }
    expectClose(await tensor.read(), expected, (i) => rounding * size[i]!);
  };
  await heads(q, H, 0, qNorm && qNorm.values);
  await heads(keys, G, H, kNorm && kNorm.values);
  const moved = await values.read();
  for (let t = 0; t < T; t++) expectClose(moved.subarray(t * G * D, (t + 1) * G * D), qkv.subarray(t * N + (H + G) * D, t * N + (H + 2 * G) * D), () => 0);
  if (!utilities) return;
  const predicted = await utilities.read();
  for (let i = 0; i < T * G; i++) {
    const [t, g] = [Math.floor(i / G), i % G];
    let z = bias.values[g]!;
    let size = Math.abs(z);
    for (let p = 0; p < P; p++) {
      const hidden = qkv[(t + 1) * N - P + p]!;
      const term = weight.values[g * P + p]! * hidden * sigmoid(hidden);
      z += term;
      size += Math.abs(term);
    }
    const expected = log ? Math.min(z, 0) - Math.log1p(Math.exp(-Math.abs(z))) : sigmoid(z);
    const slope = log ? sigmoid(-z) : sigmoid(z) * sigmoid(-z);
    expectClose([predicted[i]!], [expected], () => F32_ROUNDING * ((8 + Math.sqrt(P)) * size * slope + 5 * Math.abs(expected)));
  }
}

describe.each(testDevices())('prepare_pairs on %s', (_, device) => {
  test('agrees with loops in float64, with and without norms and a predictor', async () => {
    await fc.assert(fc.asyncProperty(cases, (given) => check(device, given)), RUNS);
  });

  test('takes the columns as a product over stacked weights gives them', async () => {
    const [C, H, G, D, P] = [24, 4, 2, 8, 6];
    const uniform = random(5);
    const x = device.from(normals(3 * C, uniform), [3, C]);
    const parts = [H * D, G * D, G * D, P].map((rows) => device.from(normals(rows * C, uniform), [rows, C]));
    const product = async (weight: typeof x) => {
      const out = device.tensor('f32', [3, weight.shape[0]!]);
      matmul(out, x, weight);
      return out.readFloats();
    };
    const qkv = device.tensor('f32', [3, (H + 2 * G) * D + P]);
    matmul(qkv, x, packWeight(...parts));
    const [q, keys, values] = [H, G, G].map((heads) => device.tensor('f32', [3, heads, D])) as [typeof x, typeof x, typeof x];
    // No rotation: cosines 1, sines 0.
    const angles = device.from(Float32Array.from({ length: 3 * D }, (_, i) => (i % D < D / 2 ? 1 : 0)), [3, D]);
    const utilities = device.tensor('f32', [3, G]);
    preparePairs(q, keys, values, utilities, qkv, angles, null, { weight: device.tensor('f32', [G, P]), bias: device.tensor('f32', [G]) });
    for (const [i, out] of [q, keys, values].entries()) {
      expectClose(await out.readFloats(), await product(parts[i]!), () => 1e-5);
    }
    expect(Array.from(await utilities.read())).toEqual(new Array(3 * G).fill(0.5));
  });

  test('NaN in one head or predictor stays there', async () => {
    const [H, G, D, P] = [2, 1, 4, 3];
    const N = (H + 2 * G) * D + P;
    const rows = new Float32Array(2 * N).fill(1);
    rows[D] = NaN; // query head 1 of token 0
    rows[2 * N - 1] = NaN; // the hidden vector of token 1
    const [q, keys, values] = [H, G, G].map((heads) => device.tensor('f32', [2, heads, D]));
    const utilities = device.tensor('f32', [2, G]);
    const ones = device.from(new Float32Array(D).fill(1));
    preparePairs(
      q!, keys!, values!, utilities, device.from(rows, [2, N]), device.from(new Float32Array(2 * D).fill(1), [2, D]), { q: ones, k: ones, epsilon: 0 },
      { weight: device.tensor('f32', [G, P]), bias: device.tensor('f32', [G]) },
    );
    const nan = (tensor: typeof q) => tensor!.readFloats().then((data) => Array.from(data, Number.isNaN));
    expect(await nan(q)).toEqual([...new Array(D).fill(false), ...new Array(D).fill(true), ...new Array(2 * D).fill(false)]);
    expect([...(await nan(keys)), ...(await nan(values))]).toEqual(new Array(4 * D).fill(false));
    expect(Array.from(await utilities.read())).toEqual([0.5, NaN]);
  });

  test('no tokens are no work', async () => {
    const f32 = (...shape: number[]) => device.tensor('f32', shape);
    const q = f32(0, 4, 8);
    preparePairs(q, f32(0, 2, 8), f32(0, 2, 8), null, f32(0, 64), f32(0, 8), null, null);
    expect((await q.read()).length).toBe(0);
  });

  test('arguments are checked', () => {
    const f32 = (...shape: number[]) => device.tensor('f32', shape);
    const norms = { q: f32(8), k: f32(8), epsilon: 1e-5 };
    const predictor = { weight: f32(2, 6), bias: f32(2) };
    const good: Parameters<typeof preparePairs> = [f32(3, 4, 8), f32(3, 2, 8), f32(3, 2, 8), f32(3, 2), f32(3, 70), f32(3, 8), norms, predictor];
    const refused = (index: number, value: unknown) => {
      const args = [...good];
      args[index] = value as never;
      return refusal(() => preparePairs(...(args as typeof good)));
    };
    expect(refused(8, false)).toBe('no error');
    for (let index = 0; index < 6; index++) {
      const { shape } = good[index] as ReturnType<typeof f32>;
      expect(refused(index, device.tensor('bf16', shape))).toBe('DTYPE');
      expect(refused(index, f32(4, ...shape.slice(1)))).toBe('SHAPE');
      expect(refused(index, f32(...shape.slice(0, -1), 10))).toBe('SHAPE');
      if (index !== 3) expect(refused(index, undefined)).toBe('INVALID_ARGUMENT');
    }
    expect(refused(3, null)).toBe('INVALID_ARGUMENT');
    expect(refused(7, null)).toBe('INVALID_ARGUMENT');
    expect(refused(7, { ...predictor, bias: null })).toBe('INVALID_ARGUMENT');
    expect(refused(7, { ...predictor, weight: f32(3, 6) })).toBe('SHAPE');
    expect(refused(7, { ...predictor, weight: f32(2, 5) })).toBe('SHAPE');
    expect(refused(6, { ...norms, q: f32(6) })).toBe('SHAPE');
    expect(refused(6, { ...norms, k: device.tensor('i32', [8]) })).toBe('DTYPE');
    for (const epsilon of [-1, NaN, '0']) expect(refused(6, { ...norms, epsilon })).toBe('INVALID_ARGUMENT');
    const odd = refusal(() => preparePairs(f32(1, 1, 3), f32(1, 1, 3), f32(1, 1, 3), null, f32(1, 9), f32(1, 3), null, null));
    expect(odd).toBe('SHAPE');
    const whole = f32(3, 70);
    expect(refused(4, whole) === 'no error' && refused(0, whole.slice(1, 0, 32).split(4)) === 'no error').toBe(true);
    const overlapping = [whole.slice(1, 0, 32).split(4), ...good.slice(1, 4), whole, ...good.slice(5)] as unknown as typeof good;
    expect(refusal(() => preparePairs(...overlapping))).toBe('INVALID_ARGUMENT');
  });
});
