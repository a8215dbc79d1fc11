import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { CACHE_DTYPES, KvCache, openDevice, PAGE_TOKENS } from '../lib/ops.js';
import { Harness, type Member, type Shape } from './support/cache-harness.js';
import { random, testDevice } from './support/device.js';
import { expectError } from './support/errors.js';
import { expectSame, RUNS, seeds } from './support/operands.js';

const device = testDevice();
const SMALL: Shape = { layers: 2, kvHeads: 2, group: 2, headDim: 16, window: 20, slack: 12, dtype: 'f32' };
const OPEN = [1, 0, 0.5, -1];

const shapes = fc.record({
  layers: fc.integer({ min: 1, max: 2 }),
  kvHeads: fc.integer({ min: 1, max: 2 }),
  group: fc.integer({ min: 1, max: 3 }),
  headDim: fc.constantFrom(2, 32, 64, 80),
  window: fc.oneof(fc.integer({ min: 1, max: 150 }), fc.constantFrom(1, 64, 128)),
  slack: fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 70 })),
  dtype: fc.constantFrom(...CACHE_DTYPES),
});
type Action = { kind: 'step' | 'fork' | 'rewind' | 'save' | 'dispose'; which: number; count: number };
const actions = fc.array(
  fc.record<Action>({
    kind: fc.constantFrom('step', 'step', 'step', 'fork', 'rewind', 'rewind', 'save', 'dispose'),
    which: fc.nat(100),
    count: fc.oneof(fc.constant(1), fc.integer({ min: 0, max: 90 })),
  }),
  { minLength: 4, maxLength: 25 },
);

/** Pages that the sequences may share, so that only their sum is known. */
async function expectConsistentPool(harness: Harness, members: readonly Member[]): Promise<void> {
  const { usedPages, sequences } = await harness.cache.stats();
  expect(sequences).toBe(members.length);
  let [all, own] = [0, 0];
  for (const { sequence, reference } of members) {
    const stats = await sequence.stats();
    const kept = reference.kept(harness.shape.window).reduce((sum, n) => sum + Math.ceil(n / PAGE_TOKENS), 0);
    expect(stats.pages).toBe(harness.lists * harness.cache.ringPages + kept);
    all += stats.pages;
    own += stats.pages - stats.sharedPages;
  }
  expect(usedPages).toBeGreaterThanOrEqual(own);
  expect(usedPages).toBeLessThanOrEqual(all);
}

test('fork, rewind, save and restore change nothing that a sequence sees', async () => {
  const property = fc.asyncProperty(shapes, actions, seeds, async (shape, list, seed) => {
    const harness = new Harness(device, shape, random(seed));
    const members = [await harness.create(), await harness.create(0.7)];
    // How far each can be taken back: `slack` tokens behind the longest that it has been.
    const peak = new Map(members.map((member) => [member, 0]));
    for (const { kind, which, count } of list) {
      if (members.length === 0) break;
      const member = members[which % members.length]!;
      const length = member.reference.length;
      if (kind === 'step') {
        const batch = members.slice(0, 3);
        await harness.step(batch, batch.map((_, b) => (b === which % batch.length ? count : (count * b) % 5)), OPEN, 3);
        for (const one of batch) peak.set(one, Math.max(peak.get(one)!, one.reference.length));
      } else if (kind === 'fork') {
        const fork = { sequence: await member.sequence.fork(), reference: member.reference.fork() };
        peak.set(fork, peak.get(member)!);
        members.push(fork);
      } else if (kind === 'rewind') {
        const most = Math.min(length, Math.max(0, shape.slack - (peak.get(member)! - length)));
        const tokens = Math.min(count, most);
        await member.sequence.rewind(tokens);
        member.reference.rewind(tokens);
      } else if (kind === 'save') {
        const saved = await member.sequence.save();
        const copy = { sequence: await harness.cache.restoreSequence(saved), reference: member.reference.fork() };
        expect({ length: copy.sequence.length, threshold: Math.fround(copy.sequence.threshold) }).toEqual({ length, threshold: Math.fround(member.sequence.threshold) });
        expect(Buffer.compare(await copy.sequence.save(), saved)).toBe(0);
        peak.set(copy, peak.get(member)!);
        members.push(copy);
      } else {
        await member.sequence.dispose();
        members.splice(members.indexOf(member), 1);
      }
      await expectConsistentPool(harness, members);
    }
    for (const { sequence } of members) await sequence.dispose();
    expect(await harness.cache.stats()).toMatchObject({ usedPages: 0, sequences: 0 });
    harness.cache.dispose();
  });
  await fc.assert(property, RUNS);
});

test('a rewound sequence continues to the bit as if the tokens had never come', async () => {
  const results: Float32Array[] = [];
  for (const detour of [false, true]) {
    const harness = new Harness(device, SMALL, random(1));
    const other = new Harness(device, SMALL, random(2));
    const member = await harness.create();
    for (const count of [90, 1, 1]) await harness.step([member], [count], OPEN);
    if (detour) {
      await harness.insert(other.data([member], [12], OPEN));
      await harness.cache.poison();
      await member.sequence.rewind(12);
      await harness.cache.poison();
    }
    for (const count of [1, 30, 1]) {
      const step = harness.data([member], [count], OPEN);
      results.push(...(await harness.attention(step)));
      await harness.insert(step);
    }
    results.push(Float32Array.from((await member.sequence.stats()).kept));
  }
  const half = results.length / 2;
  for (let i = 0; i < half; i++) expectSame(results[half + i]!, results[i]!);
});

test('more than the slack cannot be taken back, and a refusal changes nothing', async () => {
  const harness = new Harness(device, SMALL, random(3));
  const member = await harness.create();
  await expectError(() => member.sequence.rewind(1), 'OUT_OF_RANGE', '1', '0');
  await harness.step([member], [50], OPEN);
  await expectError(() => member.sequence.rewind(13), 'OUT_OF_RANGE', '13', '50', '12');
  await member.sequence.rewind(5);
  member.reference.rewind(5);
  // What was there before is gone: 7 are left.
  await expectError(() => member.sequence.rewind(8), 'OUT_OF_RANGE', '8', '45', '7');
  await harness.step([member], [1], OPEN);
  await member.sequence.rewind(8);
  member.reference.rewind(8);
  expect(member.sequence.length).toBe(38);
  await harness.step([member], [40], OPEN);
  for (const bad of [-1, 1.5, NaN]) await expectError(() => member.sequence.rewind(bad), 'INVALID_ARGUMENT', 'tokens');
});

test('forks share pages until they write', async () => {
  const harness = new Harness(device, SMALL, random(4));
  const member = await harness.create();
  await harness.step([member], [300], [1, 1, 1, 1]);
  const used = (await harness.cache.stats()).usedPages;
  expect(used).toBe(harness.lists * (1 + Math.ceil(280 / 64)));
  const forks = await Promise.all(Array.from({ length: 5 }, () => member.sequence.fork()));
  expect((await harness.cache.stats()).usedPages).toBe(used);
  const fork = { sequence: forks[0]!, reference: member.reference.fork() };
  await harness.step([fork], [1], [1, 1, 1, 1]);
  // Its own copy of the ring and of the page that has room.
  expect((await harness.cache.stats()).usedPages).toBe(used + 2 * harness.lists);
  expect(await fork.sequence.stats()).toMatchObject({ pages: used, sharedPages: used - 2 * harness.lists });
  await harness.step([member, fork], [30, 3], OPEN);
  for (const one of [member.sequence, ...forks.slice(1)]) await one.dispose();
  expect(await fork.sequence.stats()).toMatchObject({ sharedPages: 0 });
  expect((await harness.cache.stats()).usedPages).toBe((await fork.sequence.stats()).pages);
});

test('a sequence moves between caches of one geometry, whatever their size', async () => {
  for (const dtype of CACHE_DTYPES) {
    const harness = new Harness(device, { ...SMALL, dtype }, random(5));
    const member = await harness.create(0.25);
    await harness.step([member], [111], OPEN);
    const saved = await member.sequence.save();
    const target = new Harness(device, { ...SMALL, dtype, capacityPages: 40 }, random(6));
    await target.cache.poison();
    const moved = { sequence: await target.cache.restoreSequence(saved), reference: member.reference };
    expect(moved.sequence.threshold).toBe(0.25);
    await moved.sequence.rewind(12);
    moved.reference.rewind(12);
    await target.step([moved], [5], OPEN, 20);

    const differing: Partial<Shape>[] = [{ layers: 1 }, { kvHeads: 1 }, { headDim: 18 }, { window: 21 }, { slack: 0 }, { dtype: dtype === 'f32' ? 'fp8' : 'f32' }];
    for (const change of differing) {
      const wrong = new Harness(device, { ...SMALL, dtype, ...change }, random(7));
      await expectError(() => wrong.cache.restoreSequence(saved), 'FILE', Object.keys(change)[0]!);
    }
    const tiny = new Harness(device, { ...SMALL, dtype, capacityPages: 4 }, random(8));
    await expectError(() => tiny.cache.restoreSequence(saved), 'POOL_EXHAUSTED');
    expect(await tiny.cache.stats()).toMatchObject({ usedPages: 0, sequences: 0 });
  }
});

test.each([['f32', 16], ['bf16', 16], ['bf16', 64], ['fp8', 18], ['fp8', 64], ['fp8', 128]] as const)('a sequence of %s with head size %i has the same bytes on every device, and moves between them', async (dtype, headDim) => {
  const shape = { ...SMALL, dtype, headDim };
  const here = new Harness(device, shape, random(13));
  const there = new Harness(openDevice('cpu'), shape, random(13));
  let members = [await here.create(0.25), await there.create(0.25)];
  for (const count of [1, 700, 1, 90]) {
    const step = here.data([members[0]!], [count], OPEN);
    for (const [i, harness] of [here, there].entries()) {
      const mine = { ...step, members: [members[i]!] };
      await harness.insert(mine);
      harness.advance(mine);
    }
    const saved = await Promise.all(members.map(({ sequence }) => sequence.save()));
    expect(Buffer.compare(saved[0]!, saved[1]!)).toBe(0);
    // They change places.
    const moved = await Promise.all([here.cache.restoreSequence(saved[1]!), there.cache.restoreSequence(saved[0]!)]);
    for (const { sequence } of members) await sequence.dispose();
    members = members.map(({ reference }, i) => ({ sequence: moved[i]!, reference }));
  }
});

test('what the sequences hold survives the growth of the tables', async () => {
  const harness = new Harness(device, { ...SMALL, headDim: 64, dtype: 'bf16' }, random(14));
  const members: Member[] = [];
  // Ever more sequences, and lists of ever more pages, by prompts and by single tokens.
  for (let round = 0; round < 6; round++) {
    members.push(await harness.create(), await harness.create());
    await harness.step(members.slice(-3), [400, 3, 150].slice(0, Math.min(3, members.length)), OPEN, 2);
    for (let i = 0; i < 3; i++) await harness.step(members, members.map(() => 1), OPEN, 2);
  }
  await expectConsistentPool(harness, members);
});

test('a restored sequence has the threshold that it was given', async () => {
  const harness = new Harness(device, SMALL, random(10));
  for (const threshold of [0, 0.1, 0.7, 1.01, -1e30, 1 / 3]) {
    await using original = await harness.cache.createSequence({ threshold });
    await using restored = await harness.cache.restoreSequence(await original.save());
    expect(Math.fround(restored.threshold)).toBe(Math.fround(threshold));
    if (threshold !== 1 / 3) expect(restored.threshold).toBe(threshold); // the cache keeps f32: of a third, eight digits
  }
});

test.each(CACHE_DTYPES)('damaged bytes of a sequence of %s are refused, checksum or not, and never crash', async (dtype) => {
  const harness = new Harness(device, { ...SMALL, dtype, capacityPages: 100 }, random(9));
  const member = await harness.create();
  await harness.step([member], [70], OPEN);
  const saved = await member.sequence.save();
  const { usedPages } = await harness.cache.stats();
  await expectError(() => harness.cache.restoreSequence(saved.subarray(0, 100)), 'FILE', 'checksum');
  await expectError(() => harness.cache.restoreSequence('x' as never), 'INVALID_ARGUMENT', 'saved');
  const body = saved.subarray(0, -32);
  const sealed = (bytes: Uint8Array) => Buffer.concat([bytes, createHash('sha256').update(bytes).digest()]);
  // The header and the first counts matter most.
  const place = fc.oneof(fc.integer({ min: 0, max: 100 }), fc.nat(body.length - 1));
  const property = fc.asyncProperty(fc.array(fc.tuple(place, fc.nat(255)), { maxLength: 3 }), fc.option(fc.nat(body.length)), async (edits, cut) => {
    const bytes = Uint8Array.from(cut === null ? body : body.subarray(0, cut));
    for (const [at, value] of edits) if (at < bytes.length) bytes[at] = value;
    try {
      await (await harness.cache.restoreSequence(sealed(bytes))).dispose();
    } catch (error) {
      expect(['FILE', 'POOL_EXHAUSTED']).toContain((error as { code: string }).code);
    }
    expect((await harness.cache.stats()).usedPages).toBe(usedPages);
  });
  await fc.assert(property, { numRuns: 300 });
  await harness.step([member], [3], OPEN);
});

test('creating more sequences than fit fails with numbers and changes nothing', async () => {
  const harness = new Harness(device, { ...SMALL, capacityPages: 10 }, random(10));
  const members = [await harness.create(), await harness.create()];
  await expectError(() => harness.create(), 'POOL_EXHAUSTED', '4 more pages', '2 of', '10');
  expect(await harness.cache.stats()).toMatchObject({ usedPages: 8, capacityPages: 10, sequences: 2 });
  await members[0]!.sequence.dispose();
  await harness.create();
});

test('a disposed sequence or cache is refused', async () => {
  const harness = new Harness(device, SMALL, random(11));
  const member = await harness.create();
  await member.sequence.dispose();
  await member.sequence.dispose();
  const { sequence } = member;
  for (const use of [() => sequence.fork(), () => sequence.rewind(0), () => sequence.save(), () => sequence.stats()]) {
    await expectError(async () => use(), 'DISPOSED');
  }
  harness.cache.dispose();
  await expectError(() => harness.create(), 'DISPOSED');
  await expectError(() => harness.cache.stats(), 'DISPOSED');
});

test('options are checked by name', async () => {
  const good = { layers: 1, kvHeads: 1, headDim: 16, window: 4, capacityPages: 8 };
  const bad: [object, string][] = [
    [{ layers: 0 }, 'layers'], [{ kvHeads: 1.5 }, 'kvHeads'], [{ headDim: 15 }, 'headDim'], [{ headDim: 258 }, 'headDim'], [{ window: 0 }, 'window'],
    [{ slack: -1 }, 'slack'], [{ dtype: 'i32' }, 'dtype'], [{ capacityPages: 0 }, 'capacityPages'], [{ capacity: 3 }, 'capacity'],
  ];
  for (const [change, name] of bad) await expectError(() => new KvCache(device, { ...good, ...change } as never), 'INVALID_ARGUMENT', name);
  const cache = device.createCache(good);
  for (const threshold of [NaN, 'x', Infinity]) await expectError(() => cache.createSequence({ threshold: threshold as never }), 'INVALID_ARGUMENT', 'threshold');
});

test('10,000 sequences come and go in the memory of a few', async () => {
  const harness = new Harness(device, { ...SMALL, capacityPages: 64 }, random(12));
  const keeper = await harness.create();
  for (let round = 0; round < 1250; round++) {
    const members = await Promise.all(Array.from({ length: 8 }, () => harness.create()));
    if (round % 50 === 0) await harness.step([keeper, ...members.slice(0, 3)], [1, 25, 1, 30], OPEN);
    await Promise.all(members.map(({ sequence }) => sequence.dispose()));
  }
  const { peakPages, sequences, usedPages } = await harness.cache.stats();
  expect({ sequences, usedPages }).toEqual({ sequences: 1, usedPages: (await keeper.sequence.stats()).pages });
  expect(peakPages).toBeLessThanOrEqual(64);
});
