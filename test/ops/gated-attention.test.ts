import fc from 'fast-check';
import { gatedAttention } from '../../lib/ops.js';
import { random } from '../support/device.js';
import { expectError } from '../support/errors.js';
import { expectSame, padded, paddings, Poisoned, refusal, RUNS, seeds, testDevices } from '../support/operands.js';
import { attend, type Pair } from '../support/reference-attention.js';

interface Case {
  tokens: number;
  kvHeads: number;
  group: number;
  headDim: number;
  offsets: number[];
  window: number;
  q: Float32Array;
  keys: Float32Array;
  values: Float32Array;
  gates: Float32Array | null;
}

const cases = fc.record({
  lengths: fc.array(fc.oneof(fc.integer({ min: 0, max: 9 }), fc.integer({ min: 0, max: 200 })), { minLength: 1, maxLength: 4 }),
  kvHeads: fc.integer({ min: 1, max: 3 }),
  group: fc.oneof({ weight: 9, arbitrary: fc.integer({ min: 1, max: 8 }) }, fc.constant(30)),
  headDim: fc.constantFrom(2, 18, 32, 64, 80, 128),
  window: fc.oneof(fc.integer({ min: 1, max: 300 }), fc.constantFrom(1, 64, 2 ** 31 - 1)),
  gates: fc.constantFrom('absent', 'all', 'some', 'mild'),
  padding: paddings,
  seed: seeds,
});

function make(lengths: number[], kvHeads: number, group: number, headDim: number, window: number, gates: string, uniform: () => number): Case {
  const offsets = [0];
  for (const length of lengths) offsets.push(offsets[offsets.length - 1]! + length);
  const tokens = offsets[offsets.length - 1]!;
  const numbers = (count: number) => Float32Array.from({ length: count }, () => 4 * uniform() - 2);
  const gate = () => (gates === 'all' || (gates === 'some' && uniform() < 0.5) ? -Infinity : -5 * uniform());
  return {
    tokens, kvHeads, group, headDim, offsets, window,
    q: numbers(tokens * kvHeads * group * headDim), keys: numbers(tokens * kvHeads * headDim), values: numbers(tokens * kvHeads * headDim),
    gates: gates === 'absent' ? null : Float32Array.from({ length: tokens * kvHeads }, gate),
  };
}

/** Compares random rows of `out` with the reference. */
function check({ tokens, kvHeads: G, group, headDim: D, offsets, window, q, keys, values, gates }: Case, out: Float32Array, samples: number, uniform: () => number): void {
  const [H, scale] = [G * group, 1 / Math.sqrt(D)];
  if (tokens === 0) return;
  for (let n = 0; n < samples; n++) {
    const t = n === 0 ? tokens - 1 : Math.floor(uniform() * tokens);
    const h = Math.floor(uniform() * H);
    const start = offsets.findLast((offset) => offset <= t)!;
    const indices = Array.from({ length: t - start + 1 }, (_, i) => (start + i) * G + Math.floor(h / group));
    const pairs = indices.map((i): Pair => ({ key: keys.subarray(i * D, (i + 1) * D), value: values.subarray(i * D, (i + 1) * D), utility: 1 }));
    const added = indices.map((i, s): number => (gates && t - start - s >= window ? gates[i]! : 0));
    const row = (t * H + h) * D;
    const expected = attend(q.subarray(row, row + D), pairs, added, scale);
    for (let d = 0; d < D; d++) {
      const error = Math.abs(out[row + d]! - expected.out[d]!);
      if (!(error <= expected.tolerance)) throw new Error(`Token ${t}, head ${h}: off by ${error}, allowed ${expected.tolerance}`);
    }
  }
}

describe.each(testDevices())('gated attention on %s', (_, device) => {
  const run = async (c: Case, padding = 0): Promise<Float32Array> => {
    const { tokens: T, kvHeads: G, group, headDim: D } = c;
    const out = new Poisoned(device, 'f32', [T, G * group, D], padding);
    const [q, keys, values] = [padded(device, c.q, [T, G * group, D], padding), padded(device, c.keys, [T, G, D], padding), padded(device, c.values, [T, G, D], padding)];
    gatedAttention(out.view, null, q, keys, values, c.gates && padded(device, c.gates, [T, G], padding), device.from(Int32Array.from(c.offsets)), c.window, 1 / Math.sqrt(D));
    return out.read();
  };

  test('equals the sum over every pair of the document', async () => {
    const property = fc.asyncProperty(cases, async ({ lengths, kvHeads, group, headDim, window, gates, padding, seed }) => {
      const uniform = random(seed);
      const c = make(lengths.some((length) => length > 0) ? lengths : [1], kvHeads, group, headDim, window, gates, uniform);
      check(c, await run(c, padding), 25, uniform);
    });
    await fc.assert(property, RUNS);
  });

  test('gates of -Infinity remove pairs, whatever their keys are', async () => {
    const c = make([150], 2, 2, 32, 40, 'some', random(1));
    const clean = await run(c);
    for (let i = 0; i < c.tokens * c.kvHeads; i++) {
      if (c.gates![i] === -Infinity && i < 100 * c.kvHeads) c.keys.fill(1e30, i * 32, (i + 1) * 32);
    }
    const rows = 140 * 4 * 32; // from token 140 on the window holds none of them
    expectSame((await run(c)).subarray(rows), clean.subarray(rows));
  });

  test('documents do not see each other', async () => {
    const c = make([70, 65, 130], 1, 3, 32, 10, 'mild', random(2));
    const together = await run(c);
    const row = 3 * 32;
    const alone = await run({
      ...c, tokens: 65, offsets: [0, 65], q: c.q.slice(70 * row, 135 * row), keys: c.keys.slice(70 * 32, 135 * 32),
      values: c.values.slice(70 * 32, 135 * 32), gates: c.gates!.slice(70, 135),
    });
    expectSame(together.subarray(70 * row, 135 * row), alone);
  });

  test('offsets are checked when it runs', async () => {
    for (const offsets of [[1, 5], [0, 4], [0, 6], [0, 3, 2, 5]]) {
      await expectError(() => run({ ...make([5], 1, 1, 2, 1, 'absent', random(3)), offsets }), 'INVALID_ARGUMENT', 'offsets', '5');
    }
  });

  test('arguments are checked', () => {
    const f32 = (...shape: number[]) => device.tensor('f32', shape);
    const good: Parameters<typeof gatedAttention> = [
      f32(5, 6, 16), null, f32(5, 6, 16), f32(5, 2, 16), f32(5, 2, 16), f32(5, 2), device.from(Int32Array.of(0, 5)), 4, 1,
    ];
    const refused = (index: number, value: unknown) => {
      const args = [...good];
      args[index] = value as never;
      return refusal(() => gatedAttention(...(args as typeof good)));
    };
    for (const index of [0, 2, 3, 4]) {
      const heads = index < 3 ? 6 : 2;
      // On a GPU all of them may be bf16, but not one alone.
      expect(refused(index, device.tensor('bf16', [5, heads, 16]))).toBe('DTYPE');
      for (const shape of [[4, heads, 16], [5, heads + 1, 16], [5, heads, 18], [5, heads * 16]]) expect(refused(index, f32(...shape))).toBe('SHAPE');
      expect(refused(index, undefined)).toBe('INVALID_ARGUMENT');
    }
    expect(refused(0, good[2])).toBe('INVALID_ARGUMENT');
    expect(refused(1, f32(5, 2))).toBe('SHAPE');
    expect(refused(1, device.tensor('bf16', [5, 6]))).toBe('DTYPE');
    expect(refused(5, f32(5, 3))).toBe('SHAPE');
    expect(refused(6, f32(2))).toBe('DTYPE');
    expect(refused(6, device.from(Int32Array.of(5)))).toBe('SHAPE');
    const headless = [f32(5, 0, 16), null, f32(5, 0, 16), ...good.slice(3)] as typeof good;
    expect(refusal(() => gatedAttention(...headless))).toBe('SHAPE');
    for (const window of [0, -1, 1.5, NaN]) expect(['INVALID_ARGUMENT', 'OUT_OF_RANGE']).toContain(refused(7, window));
    expect(refused(8, null)).toBe('INVALID_ARGUMENT');
  });
});
