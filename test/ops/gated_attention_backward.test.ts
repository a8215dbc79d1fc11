import fc from 'fast-check';
import { gatedAttention, gatedAttentionBackward, type Tensor } from '../../lib/ops.js';
import { normals, random } from '../support/device.js';
import { differences, dot, expectGradient } from '../support/gradients.js';
import { expectClose, expectSame, F32_ROUNDING, failure, padded, paddings, Poisoned, refusal, RUNS, seeds, testDevices } from '../support/operands.js';

interface Case {
  kvHeads: number;
  group: number;
  headDim: number;
  offsets: number[];
  window: number;
  q: Float64Array;
  keys: Float64Array;
  values: Float64Array;
  gates: Float64Array | null;
  dOut: Float64Array;
}

type GateKind = 'absent' | 'soft' | 'annealed' | 'hard' | 'closed';

function make(lengths: number[], kvHeads: number, group: number, headDim: number, window: number, gates: GateKind, seed: number): Case {
  const uniform = random(seed);
  const offsets = [0];
  for (const length of lengths) offsets.push(offsets.at(-1)! + length);
  const T = offsets.at(-1)!;
  const numbers = (count: number) => Float64Array.from(normals(count, uniform));
  const gate: Record<GateKind, () => number> = {
    absent: () => 0,
    soft: () => Math.fround(-5 * uniform()),
    annealed: () => Math.fround(uniform() < 0.5 ? -12 - uniform() : -0.1 * uniform()),
    hard: () => (uniform() < 0.5 ? -Infinity : 0),
    closed: () => -Infinity,
  };
  return {
    kvHeads, group, headDim, offsets, window,
    q: numbers(T * kvHeads * group * headDim), keys: numbers(T * kvHeads * headDim), values: numbers(T * kvHeads * headDim),
    gates: gates === 'absent' ? null : Float64Array.from({ length: T * kvHeads }, gate[gates]),
    dOut: numbers(T * kvHeads * group * headDim),
  };
}

const { exp, floor, log, max } = Math; // Jest looks globals up slowly

/** Calls visit(t, h, g, weights) with the weights of the keys from `start` on, for every query. */
function eachQuery({ kvHeads: G, group, headDim: D, offsets, window, q, keys, gates }: Case, visit: (t: number, h: number, start: number, weights: Float64Array, logSum: number) => void): void {
  const H = G * group;
  for (let b = 0; b + 1 < offsets.length; b++) {
    const start = offsets[b]!;
    for (let t = start; t < offsets[b + 1]!; t++) {
      for (let h = 0; h < H; h++) {
        const g = Math.floor(h / group);
        const scores = new Float64Array(t - start + 1);
        for (let s = start; s <= t; s++) {
          let product = 0;
          for (let d = 0; d < D; d++) product += q[(t * H + h) * D + d]! * keys[(s * G + g) * D + d]!;
          scores[s - start] = product / Math.sqrt(D) + (gates && t - s >= window ? gates[s * G + g]! : 0);
        }
        let highest = -Infinity;
        for (const score of scores) highest = max(highest, score);
        let sum = 0;
        for (const score of scores) sum += exp(score - highest);
        const logSum = highest + log(sum);
        for (let i = 0; i < scores.length; i++) scores[i] = exp(scores[i]! - logSum);
        visit(t, h, start, scores, logSum);
      }
    }
  }
}

function forward(c: Case): Float64Array {
  const { kvHeads: G, group, headDim: D } = c;
  const out = new Float64Array(c.q.length);
  eachQuery(c, (t, h, start, weights) => {
    for (const [i, weight] of weights.entries()) {
      for (let d = 0; d < D; d++) out[(t * G * group + h) * D + d]! += weight * c.values[((start + i) * G + Math.floor(h / group)) * D + d]!;
    }
  });
  return out;
}

interface Gradients {
  logSumExp: Float64Array;
  dq: Float64Array;
  dk: Float64Array;
  dv: Float64Array;
  dGates: Float64Array;
}

/** The equations of ops/gated_attention.h, in float64. */
function backward(c: Case): Gradients {
  const { kvHeads: G, group, headDim: D, window } = c;
  const [H, scale] = [G * group, 1 / Math.sqrt(D)];
  const result: Gradients = {
    logSumExp: new Float64Array(c.q.length / D),
    dq: new Float64Array(c.q.length), dk: new Float64Array(c.keys.length), dv: new Float64Array(c.keys.length),
    dGates: new Float64Array(c.keys.length / D),
  };
  eachQuery(c, (t, h, start, weights, logSum) => {
    const row = (t * H + h) * D;
    const g = floor(h / group);
    result.logSumExp[t * H + h] = logSum;
    const dp = new Float64Array(weights.length);
    let delta = 0; // dO . out
    for (let i = 0; i < weights.length; i++) {
      const list = ((start + i) * G + g) * D;
      for (let d = 0; d < D; d++) dp[i]! += c.dOut[row + d]! * c.values[list + d]!;
      delta += weights[i]! * dp[i]!;
    }
    for (let i = 0; i < weights.length; i++) {
      const weight = weights[i]!;
      if (weight === 0) continue;
      const list = (start + i) * G + g;
      const ds = weight * (dp[i]! - delta);
      for (let d = 0; d < D; d++) {
        result.dq[row + d]! += scale * ds * c.keys[list * D + d]!;
        result.dk[list * D + d]! += scale * ds * c.q[row + d]!;
        result.dv[list * D + d]! += weight * c.dOut[row + d]!;
      }
      if (t - start - i >= window) result.dGates[list]! += ds;
    }
  });
  return result;
}

const kinds = fc.constantFrom<GateKind>('absent', 'soft', 'annealed', 'hard', 'closed');

test('the reference agrees with differences', () => {
  const property = fc.property(
    fc.array(fc.integer({ min: 0, max: 5 }), { minLength: 1, maxLength: 2 }), fc.integer({ min: 1, max: 2 }), fc.integer({ min: 1, max: 2 }),
    fc.constantFrom(2, 4), fc.integer({ min: 1, max: 4 }), kinds, seeds,
    (lengths, kvHeads, group, headDim, window, gates, seed) => {
      const c = make(lengths, kvHeads, group, headDim, window, gates, seed);
      const expected = backward(c);
      const loss = () => dot(forward(c), c.dOut);
      const close = (actual: Float64Array, slopes: Float64Array) => expectClose(actual, slopes, () => 1e-8);
      close(expected.dq, differences(loss, c.q));
      close(expected.dk, differences(loss, c.keys));
      close(expected.dv, differences(loss, c.values));
      if (c.gates) close(expected.dGates, differences(loss, c.gates).map((slope) => slope || 0));
    },
  );
  fc.assert(property, { numRuns: 60 });
});

const long = (['soft', 'hard'] as const).map((kind) => {
  const c = make([450], 1, 2, 64, 128, kind, 5);
  return { kind, c, expected: backward(c) };
});

describe.each(testDevices())('gated_attention_backward on %s', (_, device) => {
  const run = async (c: Case, padding = 0): Promise<Record<'out' | 'logSumExp' | 'dq' | 'dk' | 'dv' | 'dGates', Float32Array>> => {
    const { kvHeads: G, group, headDim: D, window } = c;
    const [T, H, scale] = [c.offsets.at(-1)!, G * group, 1 / Math.sqrt(D)];
    const operand = (values: Float64Array, heads: number) => padded(device, Float32Array.from(values), [T, heads, D], padding);
    const [q, keys, values, dOut] = [operand(c.q, H), operand(c.keys, G), operand(c.values, G), operand(c.dOut, H)];
    const gates = c.gates && padded(device, Float32Array.from(c.gates), [T, G], padding);
    const offsets = device.from(Int32Array.from(c.offsets));
    const results = {
      out: new Poisoned(device, 'f32', [T, H, D], padding), logSumExp: new Poisoned(device, 'f32', [T, H], padding),
      dq: new Poisoned(device, 'f32', [T, H, D], padding), dk: new Poisoned(device, 'f32', [T, G, D], padding),
      dv: new Poisoned(device, 'f32', [T, G, D], padding), dGates: new Poisoned(device, 'f32', [T, G], padding),
    };
    const { out, logSumExp, dq, dk, dv, dGates } = results;
    gatedAttention(out.view, logSumExp.view, q, keys, values, gates, offsets, window, scale);
    gatedAttentionBackward(
      dq.view, dk.view, dv.view, gates && dGates.view, dOut, out.view, logSumExp.view, q, keys, values, gates, offsets, window, scale,
    );
    const read = await Promise.all(Object.entries(results).map(async ([name, result]) => [name, await result.read()] as const));
    return Object.fromEntries(read) as Awaited<ReturnType<typeof run>>;
  };

  const check = async (c: Case, expected: Gradients, padding = 0) => {
    const actual = await run(c, padding);
    const { logSumExp } = expected;
    expectClose(actual.logSumExp, logSumExp, (i) => 64 * F32_ROUNDING * (1 + Math.abs(logSumExp[i]!)));
    // A weight is off by the roundings of its score, which all gradients share; sums over tokens add theirs.
    const roundings = 256 + c.offsets.at(-1)!;
    for (const name of ['dq', 'dk', 'dv'] as const) expectGradient(actual[name], expected[name], roundings, 1);
    if (c.gates) expectGradient(actual.dGates, expected.dGates, roundings, 1);
  };

  test('agrees with the equations in float64', async () => {
    const property = fc.asyncProperty(
      fc.array(fc.oneof(fc.integer({ min: 0, max: 9 }), fc.integer({ min: 0, max: 150 })), { minLength: 1, maxLength: 2 }),
      fc.integer({ min: 1, max: 2 }), fc.integer({ min: 1, max: 3 }), fc.constantFrom(2, 18, 32, 64),
      fc.oneof(fc.integer({ min: 1, max: 160 }), fc.constantFrom(1, 64, 128, 2 ** 31 - 1)), kinds, paddings, seeds,
      async (lengths, kvHeads, group, headDim, window, gates, padding, seed) => {
        const some = lengths.some((length) => length > 0) ? lengths : [1];
        const c = make(some, kvHeads, group, headDim, window, gates, seed);
        await check(c, backward(c), padding);
      },
    );
    await fc.assert(property, RUNS);
  });

  test.each(long)('a long document, $kind', ({ c, expected }) => check(c, expected));

  test('a removed pair has no gradient to its gate, and its key gets none from outside its window', async () => {
    const c = make([200], 2, 2, 16, 20, 'closed', 1); // H·D = 64, G·D = 32
    const { dGates } = await run(c);
    expect(dGates.every((value) => value === 0)).toBe(true);
    // Whatever the keys are: no query outside of the window meets them.
    const huge = { ...c, keys: c.keys.slice(), dOut: c.dOut.slice().fill(0, 0, 120 * 64) };
    huge.keys.fill(1e30, 0, 100 * 32);
    const clean = { ...c, dOut: huge.dOut };
    const [first, second] = [await run(huge), await run(clean)];
    expectSame(first.dq.subarray(120 * 64), second.dq.subarray(120 * 64));
    expectSame(first.dv.subarray(0, 100 * 32), new Float32Array(100 * 32));
  });

  test('documents have nothing to do with each other', async () => {
    const c = make([70, 65, 130], 1, 3, 32, 10, 'soft', 2);
    const together = await run(c);
    const [from, to] = [70, 135];
    const part = (values: Float64Array, width: number) => values.slice(from * width, to * width);
    const alone = await run({ ...c, offsets: [0, to - from], q: part(c.q, 96), keys: part(c.keys, 32), values: part(c.values, 32), gates: part(c.gates!, 1), dOut: part(c.dOut, 96) });
    for (const [name, width] of [['dq', 96], ['dk', 32], ['dv', 32], ['dGates', 1]] as const) {
      const whole = together[name].subarray(from * width, to * width);
      expectClose(alone[name], whole, (i) => 32 * F32_ROUNDING * (1 + Math.abs(whole[i]!)));
    }
  });

  test('gives the same bits every time', async () => {
    if (device.name !== 'cpu') return; // a GPU may add up the shares of a query's gradient as they come
    const c = make([300, 211], 2, 2, 32, 40, 'soft', 3);
    const first = await run(c);
    for (let i = 0; i < 5; i++) {
      const again = await run(c);
      for (const name of ['dq', 'dk', 'dv', 'dGates'] as const) expectSame(again[name], first[name]);
    }
  });

  test('arguments are checked', async () => {
    const f32 = (...shape: number[]) => device.tensor('f32', shape);
    const [query, pair] = [[5, 6, 16], [5, 2, 16]];
    const good: Parameters<typeof gatedAttentionBackward> = [
      f32(...query), f32(...pair), f32(...pair), f32(5, 2), f32(...query), f32(...query), f32(5, 6), f32(...query), f32(...pair), f32(...pair),
      f32(5, 2), device.from(Int32Array.of(0, 5)), 4, 1,
    ];
    const refused = (index: number, value: unknown) => refusal(() => gatedAttentionBackward(...(good.with(index, value as never) as typeof good)));
    for (const [index, tensor] of good.entries()) {
      if (index > 11) continue;
      const { shape } = tensor as Tensor;
      expect(refused(index, device.tensor('u8', shape))).toBe('DTYPE');
      if (index !== 11) expect(refused(index, f32(...shape.with(shape.length - 1, 7)))).toBe('SHAPE');
      if (index !== 3 && index !== 10) expect(refused(index, undefined)).toBe('INVALID_ARGUMENT');
    }
    expect(refused(10, null)).toBe('INVALID_ARGUMENT'); // dGates without gates
    for (const window of [0, 1.5, NaN]) expect(refused(12, window)).toBe('INVALID_ARGUMENT');
    expect(refused(13, null)).toBe('INVALID_ARGUMENT');
    const error = await failure(() => gatedAttentionBackward(...(good.with(11, device.from(Int32Array.of(0, 4))) as typeof good)), good[0]);
    expect(error.code).toBe('INVALID_ARGUMENT');
    expect(error.message).toMatch('offsets');
  });
});
