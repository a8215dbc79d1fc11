import fc from 'fast-check';
import { attention, CACHE_DTYPES, openDevice } from '../../lib/ops.js';
import { type Densities, Harness, type Member, type Shape } from '../support/cache-harness.js';
import { random } from '../support/device.js';
import { expectError } from '../support/errors.js';
import { stored } from '../support/reference-attention.js';
import { expectClose, expectSame, F32_ROUNDING, failure, inType, refusal, RUNS, seeds, testDevices } from '../support/operands.js';

const shapes: fc.Arbitrary<Shape> = fc.record({
  layers: fc.integer({ min: 1, max: 2 }),
  kvHeads: fc.integer({ min: 1, max: 3 }),
  group: fc.oneof({ weight: 9, arbitrary: fc.integer({ min: 1, max: 8 }) }, fc.constant(19)),
  headDim: fc.constantFrom(2, 18, 32, 64, 80, 112, 128, 256),
  window: fc.oneof(fc.integer({ min: 1, max: 300 }), fc.constantFrom(1, 2, 63, 64, 65, 128)),
  slack: fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 70 })),
  dtype: fc.constantFrom(...CACHE_DTYPES),
});
const density = fc.constantFrom(0, 1, -1, 0.03, 0.5, 0.9);
/** Tokens of one sequence in one step: decoding, idle, small and large chunks. */
const chunk = fc.oneof({ weight: 3, arbitrary: fc.constant(1) }, fc.integer({ min: 0, max: 9 }), fc.integer({ min: 0, max: 150 }));
const steps = fc.array(fc.tuple(chunk, chunk, chunk), { minLength: 1, maxLength: 5 });

const SMALL: Shape = { layers: 1, kvHeads: 2, group: 3, headDim: 16, window: 20, slack: 0, dtype: 'f32' };

describe.each(testDevices())('attention on %s', (_, device) => {
  test('equals the sum over every visible pair, in any chunks, any batch, with unused memory poisoned', async () => {
    const property = fc.asyncProperty(
      shapes, fc.array(density, { minLength: 6, maxLength: 6 }), fc.boolean(), steps, seeds,
      async (shape, densities, dense, cuts, seed) => {
        const harness = new Harness(device, shape, random(seed));
        const members = [await harness.create(0.5), await harness.create(0.7), await harness.create(2)];
        for (const counts of cuts) await harness.step(members, counts, dense ? null : densities);
        harness.cache.dispose();
      },
    );
    await fc.assert(property, RUNS);
  });

  test.each([1, 7, 64, 127, 128, 129])('a text in chunks of %i', async (size) => {
    const shape: Shape = { layers: 1, kvHeads: 2, group: 2, headDim: 64, window: 128, slack: 0, dtype: 'f32' };
    const harness = new Harness(device, shape, random(size));
    const member = await harness.create();
    for (let length = 0; length < 400; length += size) {
      await harness.step([member], [Math.min(size, 400 - length)], [0.4, 1], 3);
    }
  });

  test.each(CACHE_DTYPES)('long lists of %s: several runs of pages in decoding, cached pages in prefill', async (dtype) => {
    const shape: Shape = { layers: 1, kvHeads: 2, group: 4, headDim: 32, window: 64, slack: 16, dtype };
    const harness = new Harness(device, shape, random(1));
    const members = [await harness.create(), await harness.create(), await harness.create()];
    for (let i = 0; i < 3; i++) await harness.step(members, [700, 350, 30], [1, 0.3], 4);
    for (let i = 0; i < 3; i++) await harness.step(members, [1, 1, 40], [1, 0.3], 16);
  });

  test('decoding: lists of any length, the same bits every time', async () => {
    for (const [dtype, headDim, group] of [['bf16', 64, 4], ['bf16', 128, 12], ['fp8', 64, 12], ['fp8', 128, 4]] as const) {
      const shape: Shape = { layers: 2, kvHeads: 2, group, headDim, window: 64, slack: 5, dtype };
      const harness = new Harness(device, shape, random(headDim));
      const members = [await harness.create(), await harness.create(), await harness.create()];
      await harness.step(members, [400, 70, 0], [1, 0.3, 0, 0.5]);
      for (let i = 0; i < 4; i++) await harness.step(members, [1, 1, 1], [1, 0.3, 0, 0.5], 30);
      const step = harness.data(members, [1, 1, 1], [1, 1, 1, 1]);
      const [first, second] = [await harness.attention(step), await harness.attention(step)];
      first.forEach((out, layer) => expectSame(second[layer]!, out));
    }
  });

  test.each(CACHE_DTYPES)('a key or value that is no number is seen only by queries that see the pair: %s', async (dtype) => {
    const harness = new Harness(device, { ...SMALL, dtype }, random(3));
    const members = [await harness.create(), await harness.create()];
    const step = harness.data(members, [40, 5], [0, 1]);
    const clean = (await harness.attention(step))[0]!;
    step.values.fill(NaN, 0, 16); // token 0, head 0: pruned, so tokens from 20 on do not see it
    const dirty = (await harness.attention(step))[0]!;
    const rowOf = (token: number, head: number) => (token * 6 + head) * 16;
    expect(dirty[rowOf(19, 2)]).toBeNaN();
    for (const row of [rowOf(0, 3), rowOf(19, 3), rowOf(41, 0)]) expectSame(dirty.subarray(row, row + 16), clean.subarray(row, row + 16));
  });

  // A single pair is its own result, so this shows what is stored.
  test.each([18, 64, 128])('fp8 rounds to the nearest number of its row, head size %i', async (headDim) => {
    const uniform = random(headDim);
    const harness = new Harness(device, { ...SMALL, headDim, window: 1, dtype: 'fp8' }, uniform);
    const member = await harness.create();
    // The only pair has weight 1; a GPU multiplies by it and by its inverse.
    const roundings = device.name === 'cpu' ? 0 : 4;
    for (const exponent of [-149, -126, -70, -61, -9, 0, 1, 40, 60]) {
      const step = harness.data([member], [1], [0, 0]);
      // Ties, halves of the smallest steps, and numbers of every size down to nothing.
      step.values.forEach((_, i) => {
        const exact = [448, 432, 447, 1.0625, 1.1875, 2 ** -10, 3 * 2 ** -10, 15.5 * 2 ** -10][i % 12];
        const x = exact ?? 448 * uniform() * 2 ** (-20 * uniform());
        step.values[i] = (i % 2 ? -1 : 1) * Math.min(x, 448) * 2 ** (exponent - (i >= headDim ? 1 : 0));
      });
      const [out] = await harness.attention(step);
      for (let head = 0; head < 6; head++) {
        const value = stored(step.values.subarray(Math.floor(head / 3) * headDim, (Math.floor(head / 3) + 1) * headDim), 'fp8');
        expectClose(out!.subarray(head * headDim, (head + 1) * headDim), value, (at) => roundings * F32_ROUNDING * Math.abs(value[at]!));
      }
      await harness.insert(step);
      harness.advance(step);
    }
  });

  test('large scores do not overflow', async () => {
    const harness = new Harness(device, SMALL, random(4));
    const members = [await harness.create()];
    for (const count of [70, 1, 1]) {
      const step = harness.data(members, [count], [0.5, 0.5]);
      step.q.forEach((value, i) => (step.q[i] = value * 200));
      const outs = await harness.attention(step);
      expect(outs[0]!.every(Number.isFinite)).toBe(true);
      harness.check(step, outs, 20);
      await harness.insert(step);
      harness.advance(step);
    }
  });

  test('the step is checked when it runs', async () => {
    const harness = new Harness(device, SMALL, random(5));
    const members = [await harness.create(), await harness.create()];
    const run = (change: (step: ReturnType<Harness['data']>) => void) => {
      const step = harness.data(members, [3, 2], [1, 1]);
      change(step);
      return harness.attention(step);
    };
    await expectError(() => run((step) => (step.offsets[0] = 1)), 'INVALID_ARGUMENT', 'offsets', '5');
    await expectError(() => run((step) => (step.offsets[1] = 6)), 'INVALID_ARGUMENT', 'offsets');
    await expectError(() => run((step) => (step.offsets[1] = -1)), 'INVALID_ARGUMENT', 'offsets');
    await expectError(() => run((step) => (step.offsets[2] = 4)), 'INVALID_ARGUMENT', 'offsets');
    await expectError(() => run((step) => (step.members = [members[0]!, members[0]!])), 'INVALID_ARGUMENT', 'slots', 'twice');
    const gone = members[1]!.sequence.slot;
    await members[1]!.sequence.dispose();
    const ghost = { ...members[1]!, sequence: { slot: gone } } as unknown as Member;
    await expectError(() => run((step) => (step.members = [members[0]!, ghost])), 'DISPOSED', `${gone}`);
  });

  test('a bf16 output is the f32 one, rounded', async () => {
    if (device.name === 'cpu') return; // which refuses it, see below
    for (const [headDim, group, dtype] of [[128, 4, 'bf16'], [64, 3, 'bf16'], [18, 2, 'f32']] as const) {
      const harness = new Harness(device, { layers: 1, kvHeads: 2, group, headDim, window: 64, slack: 0, dtype }, random(headDim));
      const members = [await harness.create(), await harness.create()];
      for (const counts of [[200, 90], [1, 1], [1, 30]]) {
        const step = harness.data(members, counts, [0.5, 1]);
        const [wide, narrow] = [await harness.attention(step), await harness.attention(step, 'bf16')];
        expectSame(narrow[0]!, inType(wide[0]!, 'bf16').values);
        await harness.insert(step);
      }
    }
  });

  test('arguments are checked', async () => {
    const harness = new Harness(device, SMALL, random(6));
    const slots = harness.slots([await harness.create()]);
    const offsets = device.from(Int32Array.of(0, 2));
    const f32 = (...shape: number[]) => device.tensor('f32', shape);
    const good: Parameters<typeof attention> = [
      f32(2, 6, 16), f32(2, 6, 16), f32(2, 2, 16), f32(2, 2, 16), f32(2, 2), harness.cache, 0, slots, offsets, 1,
    ];
    const refused = (index: number, value: unknown) => {
      const args = [...good];
      args[index] = value as never;
      return refusal(() => attention(...(args as typeof good)));
    };
    for (let index = 0; index < 4; index++) {
      const rounded = index === 0 && device.name !== 'cpu';
      expect(refused(index, device.tensor('bf16', [2, index < 2 ? 6 : 2, 16]))).toBe(rounded ? 'no error' : 'DTYPE');
      expect(refused(index, f32(3, index < 2 ? 6 : 2, 16))).toBe('SHAPE');
      expect(refused(index, f32(2, index < 2 ? 6 : 2, 18))).toBe('SHAPE');
      expect(refused(index, f32(2, index < 2 ? 7 : 3, 16))).toBe('SHAPE');
      expect(refused(index, undefined)).toBe('INVALID_ARGUMENT');
    }
    expect(refused(0, good[1])).toBe('INVALID_ARGUMENT');
    const headless = [f32(2, 0, 16), f32(2, 0, 16), ...good.slice(2)] as typeof good;
    expect(refusal(() => attention(...headless))).toBe('SHAPE');
    expect(refused(4, f32(2, 3))).toBe('SHAPE');
    expect(refused(4, device.tensor('i32', [2, 2]))).toBe('DTYPE');
    expect(refused(5, undefined)).toBe('INVALID_ARGUMENT');
    for (const layer of [-1, 1, 0.5, NaN, '0']) expect(['INVALID_ARGUMENT', 'OUT_OF_RANGE']).toContain(refused(6, layer));
    expect(refused(7, device.tensor('f32', [1]))).toBe('DTYPE');
    expect(refused(8, device.from(Int32Array.of(0, 1, 2)))).toBe('SHAPE');
    expect(refused(9, 'x')).toBe('INVALID_ARGUMENT');
    const read = device.tensor('f32', [1]);
    await expect(read.read()).resolves.toBeDefined();
  });

  test('an error skips what is enqueued behind it, until it has been told', async () => {
    const harness = new Harness(device, SMALL, random(7));
    const member = await harness.create();
    const step = harness.data([member], [3], [1, 1]);
    step.offsets[1] = 2;
    const error = await failure(() => void harness.attention(step).catch(() => undefined), device.tensor('f32', [1]));
    expect(error.code).toBe('INVALID_ARGUMENT');
    await harness.step([member], [3], [1, 1]);
  });
});

test('what else is in the batch, and how many threads there are, changes no bit', async () => {
  if ((process.env['SPKV_TEST_DEVICE'] ?? 'cpu') !== 'cpu') return;
  const shape: Shape = { layers: 1, kvHeads: 2, group: 3, headDim: 64, window: 100, slack: 0, dtype: 'f32' };
  const densities: Densities = [0.6, 1];
  const results: Float32Array[][] = [];
  for (const threads of [1, 3]) {
    const device = openDevice('cpu', { threads, pin: false });
    for (const companions of [0, 3]) {
      const harness = new Harness(device, shape, random(8));
      const other = new Harness(device, shape, random(9));
      const member = await harness.create();
      const all: Float32Array[] = [];
      // The member alone, or among others whose data come from another generator.
      for (const count of [900, 33, 1, 1, 2, 130, 1]) {
        const own = harness.data([member], [count], densities);
        if (companions === 0) {
          all.push((await harness.attention(own))[0]!);
          await harness.insert(own);
          continue;
        }
        const guests = await Promise.all(Array.from({ length: companions }, () => harness.create()));
        const extra = other.data(guests, [40, 1, 300], densities);
        const step = {
          members: [guests[0]!, member, guests[1]!, guests[2]!],
          offsets: Int32Array.of(0, 40, 40 + count, 41 + count, 341 + count), tokens: 341 + count,
          q: join(extra.q, own.q, 40 * 384), keys: join(extra.keys, own.keys, 40 * 128),
          values: join(extra.values, own.values, 40 * 128), utilities: join(extra.utilities!, own.utilities!, 40 * 2),
        };
        all.push((await harness.attention(step))[0]!.subarray(40 * 384, (40 + count) * 384));
        await harness.insert(step);
        for (const guest of guests) await guest.sequence.dispose();
      }
      results.push(all);
    }
  }
  for (const result of results) result.forEach((out, i) => expectSame(out, results[0]![i]!));
});

/** `inner` put into `outer` at an element. */
function join(outer: Float32Array, inner: Float32Array, at: number): Float32Array {
  const joined = new Float32Array(outer.length + inner.length);
  joined.set(outer.subarray(0, at));
  joined.set(inner, at);
  joined.set(outer.subarray(at), at + inner.length);
  return joined;
}

