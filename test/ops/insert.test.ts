import fc from 'fast-check';
import { insert, positions } from '../../lib/ops.js';
import { Harness, type Shape, type StepData } from '../support/cache-harness.js';
import { random } from '../support/device.js';
import { expectError } from '../support/errors.js';
import { refusal, RUNS, seeds, testDevices } from '../support/operands.js';

const SMALL: Shape = { layers: 2, kvHeads: 2, group: 1, headDim: 16, window: 20, slack: 0, dtype: 'f32' };
const lists = SMALL.layers * SMALL.kvHeads;

describe.each(testDevices())('insert on %s', (_, device) => {
  test('keeps exactly the pairs that reach the threshold when they leave the window', async () => {
    const property = fc.asyncProperty(
      fc.integer({ min: 1, max: 130 }), fc.constantFrom(0, 7, 64), fc.array(fc.integer({ min: 0, max: 200 }), { minLength: 1, maxLength: 8 }), seeds,
      async (window, slack, counts, seed) => {
        const harness = new Harness(device, { ...SMALL, window, slack }, random(seed));
        const members = [await harness.create(0.5), await harness.create(0.9)];
        // `step` compares length and counts with the reference after every insert.
        for (const count of counts) await harness.step(members, [count, 200 - count], [0, 1, -1, 0.4], 1);
        let pages = 0;
        for (const { sequence, reference } of members) {
          const kept = reference.kept(window).reduce((sum, n) => sum + Math.ceil(n / 64), 0);
          const stats = await sequence.stats();
          expect({ pages: stats.pages, shared: stats.sharedPages }).toEqual({ pages: lists * harness.cache.ringPages + kept, shared: 0 });
          pages += stats.pages;
        }
        expect((await harness.cache.stats()).usedPages).toBe(pages);
        harness.cache.dispose();
      },
    );
    await fc.assert(property, RUNS);
  });

  test('a utility equal to the threshold is kept', async () => {
    const harness = new Harness(device, { ...SMALL, window: 1 }, random(1));
    const member = await harness.create(0.25);
    const step = harness.data([member], [3], [1, 1, 1, 1]);
    const below = new Float32Array(new Uint32Array([0x3e7fffff]).buffer)[0]!;
    step.utilities!.fill(0.25, 0, 6).fill(below, 6, 12); // layer 0, layer 1
    await harness.insert(step);
    expect(Array.from((await member.sequence.stats()).kept)).toEqual([2, 2, 0, 0]);
  });

  test('without utilities everything is kept', async () => {
    const harness = new Harness(device, SMALL, random(2));
    const member = await harness.create(1e30);
    await harness.step([member], [100], null);
    await harness.step([member], [1], null);
    expect(Array.from((await member.sequence.stats()).kept)).toEqual([81, 81, 81, 81]);
  });

  test('positions count on from what the cache has', async () => {
    const harness = new Harness(device, SMALL, random(3));
    const members = [await harness.create(), await harness.create(), await harness.create()];
    await harness.step(members, [5, 0, 130], [1, 0, 1, 0]);
    const step = harness.data(members, [2, 1, 3], [1, 1, 1, 1]);
    expect(await harness.positions(step)).toEqual([5, 6, 0, 130, 131, 132]);
  });

  const exhausted = /pages are needed, but \d+ of the cache's \d+ are free/;
  test('what does not fit changes nothing', async () => {
    // Two rings of one page per list, and room for six kept pages.
    const harness = new Harness(device, { ...SMALL, capacityPages: 2 * lists + 6 }, random(4));
    const members = [await harness.create(), await harness.create()];
    await harness.step(members, [60, 20], [1, 0, 1, 0]);
    const before = await Promise.all([harness.cache.stats(), ...members.map(({ sequence }) => sequence.stats())]);
    // The first sequence alone would fit; together they need 4 + 4.
    const tooMuch = harness.data(members, [200, 100], [1, 0, 1, 0]);
    await expectError(() => harness.insert(tooMuch), 'POOL_EXHAUSTED', exhausted);
    expect(await Promise.all([harness.cache.stats(), ...members.map(({ sequence }) => sequence.stats())])).toEqual(before);
    for (let i = 0; i < 3; i++) await harness.step(members, [1, 30], [1, 0, 1, 0]);
  });

  test('copies of shared pages are counted', async () => {
    const harness = new Harness(device, { ...SMALL, capacityPages: 3 * lists - 1 }, random(5));
    const member = await harness.create();
    await harness.step([member], [30], [1, 1, 1, 1]);
    const fork = { sequence: await member.sequence.fork(), reference: member.reference.fork() };
    // A ring page and a kept page per list, all shared.
    expect(await fork.sequence.stats()).toMatchObject({ pages: 2 * lists, sharedPages: 2 * lists });
    await expectError(() => harness.insert(harness.data([fork], [1], [1, 1, 1, 1])), 'POOL_EXHAUSTED', `${2 * lists} more pages`);
    expect(await fork.sequence.stats()).toMatchObject({ pages: 2 * lists, sharedPages: 2 * lists });
    await member.sequence.dispose();
    await harness.step([fork], [1], [1, 1, 1, 1]);
  });

  const places: [string, (step: StepData) => Float32Array, number][] = [
    ['key', (step) => step.keys, 16], ['value', (step) => step.values, 16], ['utility', (step) => step.utilities!, 1],
  ];
  test.each(places)('a %s that is no finite number is refused and changes nothing', async (name, data, width) => {
    for (const bad of [NaN, Infinity, -Infinity]) {
      const harness = new Harness(device, SMALL, random(6));
      const member = await harness.create();
      await harness.step([member], [30], [1, 0.5, 1, 0.5]);
      const step = harness.data([member], [90], [1, 1, 1, 1]);
      data(step)[90 * 2 * width + 77] = bad; // layer 1
      await expectError(() => harness.insert(step), 'NON_FINITE', 'Layer 1', name);
      await harness.step([member], [3], [1, 1, 1, 1]);
    }
  });

  test('a logit that is no finite number is refused and changes nothing; pairs are looked at first', async () => {
    const harness = new Harness(device, SMALL, random(10));
    const member = await harness.create();
    await harness.step([member], [30], [1, 0.5, 1, 0.5]);
    const [rows, V] = [5, 20_001];
    for (const [bad, received] of [[NaN, 'nan'], [Infinity, 'received inf'], [-Infinity, 'received -inf']] as const) {
      const logits = new Float32Array(rows * (V + 3)).fill(NaN); // behind the rows, which do not lie together
      for (let row = 0; row < rows; row++) logits.fill(row, row * (V + 3), row * (V + 3) + V);
      const view = (data: Float32Array) => device.from(data, [rows, V + 3]).slice(1, 0, V);
      const step = harness.data([member], [90], [1, 1, 1, 1]);
      const good = view(logits);
      for (const [row, column] of [[4, 5], [3, V - 1], [3, 9000]] as const) logits[row * (V + 3) + column] = bad;
      await expectError(() => harness.insert(step, view(logits)), 'NON_FINITE', received, 'logits[3, 9000]');
      const worse = harness.data([member], [90], [1, 1, 1, 1]);
      worse.values[5] = bad;
      await expectError(() => harness.insert(worse, view(logits)), 'NON_FINITE', 'Layer 0', 'value');
      await harness.step([member], [3], [1, 1, 1, 1]);
      await harness.insert(step, good);
      harness.advance(step);
      await harness.step([member], [1], [1, 1, 1, 1]);
    }
  });

  // The largest number that is held, by its bits: the next one rounds to infinity.
  test.each([['f32', 0x7f7fffff, ''], ['bf16', 0x7f7f7fff, 'in bf16'], ['fp8', 0x61e00000, 'in fp8']] as const)(
    'a key that is too large for %s is refused', async (dtype, largest, where) => {
      const number = (bits: number) => new Float32Array(Uint32Array.of(bits).buffer)[0]!;
      const harness = new Harness(device, { ...SMALL, dtype }, random(7));
      const member = await harness.create();
      for (const [bits, accepted] of [[largest, true], [largest + 1, false]] as const) {
        const step = harness.data([member], [2], [1, 1, 1, 1]);
        step.keys[3] = -number(bits);
        const inserted = harness.insert(step);
        await (accepted ? inserted : expectError(() => inserted, 'NON_FINITE', 'Layer 0', 'key', where));
      }
    },
  );

  test('the step is checked when it runs', async () => {
    const harness = new Harness(device, SMALL, random(8));
    const members = [await harness.create(), await harness.create()];
    const run = (change: (step: StepData) => void) => {
      const step = harness.data(members, [3, 2], [1, 1, 1, 1]);
      change(step);
      return harness.insert(step);
    };
    await expectError(() => run((step) => (step.members = [members[1]!, members[1]!])), 'INVALID_ARGUMENT', 'slots', 'twice');
    await expectError(() => run((step) => (step.offsets[1] = 9)), 'INVALID_ARGUMENT', 'offsets');
    await expectError(() => run((step) => (step.offsets[2] = 4)), 'INVALID_ARGUMENT', 'offsets');
    const gone = members[1]!.sequence.slot;
    await members[1]!.sequence.dispose();
    const ghost = { ...members[1]!, sequence: { slot: gone } } as unknown as (typeof members)[number];
    await expectError(() => run((step) => (step.members = [members[0]!, ghost])), 'DISPOSED', `${gone}`);
    await harness.step([members[0]!], [2], [1, 1, 1, 1]);
  });

  test('arguments are checked', async () => {
    const harness = new Harness(device, SMALL, random(9));
    const slots = harness.slots([await harness.create()]);
    const offsets = device.from(Int32Array.of(0, 3));
    const f32 = (...shape: number[]) => device.tensor('f32', shape);
    const good: Parameters<typeof insert> = [harness.cache, f32(2, 3, 2, 16), f32(2, 3, 2, 16), f32(2, 3, 2), slots, offsets, f32(1, 9)];
    const refused = (index: number, value: unknown) => {
      const args = [...good];
      args[index] = value as never;
      return refusal(() => insert(...(args as typeof good)));
    };
    expect(refused(0, undefined)).toBe('INVALID_ARGUMENT');
    for (const index of [1, 2]) {
      expect(refused(index, undefined)).toBe('INVALID_ARGUMENT');
      expect(refused(index, device.tensor('bf16', [2, 3, 2, 16]))).toBe('DTYPE');
      for (const shape of [[1, 3, 2, 16], [2, 4, 2, 16], [2, 3, 1, 16], [2, 3, 2, 32], [2, 3, 32]]) expect(refused(index, f32(...shape))).toBe('SHAPE');
    }
    expect(refused(3, f32(2, 3, 3))).toBe('SHAPE');
    expect(refused(4, f32(1))).toBe('DTYPE');
    expect(refused(5, device.from(Int32Array.of(3)))).toBe('SHAPE');
    expect(refused(6, f32(9))).toBe('SHAPE');
    expect(refused(6, device.tensor('bf16', [1, 9]))).toBe('DTYPE');
    const out = device.tensor('i32', [3]);
    expect(refusal(() => positions(f32(3), harness.cache, slots, offsets))).toBe('DTYPE');
    expect(refusal(() => positions(out, undefined as never, slots, offsets))).toBe('INVALID_ARGUMENT');
    expect(refusal(() => positions(slots, harness.cache, slots, offsets))).toBe('INVALID_ARGUMENT');
    expect(refusal(() => positions(out, harness.cache, f32(1), offsets))).toBe('DTYPE');
    expect(refusal(() => positions(out, harness.cache, slots, slots))).toBe('SHAPE');
  });
});
