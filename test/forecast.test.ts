import fc from 'fast-check';
import { Harness } from './support/cache-harness.js';
import { random, testDevice } from './support/device.js';
import { expectError } from './support/errors.js';
import { RUNS, seeds } from './support/operands.js';

const device = testDevice();
const shapes = fc.record({
  layers: fc.integer({ min: 1, max: 2 }),
  kvHeads: fc.integer({ min: 1, max: 2 }),
  group: fc.constant(1),
  headDim: fc.constantFrom(2, 64),
  window: fc.integer({ min: 1, max: 150 }),
  slack: fc.constantFrom(0, 70),
  dtype: fc.constantFrom('f32' as const, 'bf16' as const),
});
const DENSITIES = [1, 0, 0.5, 0.3];

test('what a forecast says is what the next tokens take, to the page', async () => {
  const given = { shape: shapes, before: fc.integer({ min: 0, max: 400 }), shared: fc.boolean(), share: fc.double({ min: 0, max: 1, noNaN: true }), seed: seeds };
  const property = fc.asyncProperty(fc.record(given), async ({ shape, before, shared, share, seed }) => {
    const harness = new Harness(device, shape, random(seed));
    const member = await harness.create();
    await harness.insert(harness.data([member], [before], DENSITIES));
    if (shared) await member.sequence.fork();
    const pages = await member.sequence.forecast(shape.window);
    const { usedPages } = await harness.cache.stats();
    const tokens = Math.max(1, Math.round(share * shape.window));
    for (let i = 0; i < tokens; i++) {
      await harness.insert(harness.data([member], [1], DENSITIES));
      if (i % 13 === 0 || i === tokens - 1) expect((await harness.cache.stats()).usedPages).toBe(usedPages + pages[i]!);
    }
    harness.cache.dispose();
  });
  await fc.assert(property, RUNS);
});

test('beyond the window a forecast counts everything as kept', async () => {
  const property = fc.asyncProperty(shapes, fc.integer({ min: 0, max: 300 }), fc.integer({ min: 1, max: 500 }), seeds, async (shape, before, tokens, seed) => {
    const harness = new Harness(device, shape, random(seed));
    const member = await harness.create();
    await harness.insert(harness.data([member], [before], DENSITIES));
    const pages = await member.sequence.forecast(tokens);
    const { usedPages } = await harness.cache.stats();
    const all = seed % 2 === 0;
    await harness.insert(harness.data([member], [tokens], all ? null : DENSITIES));
    const taken = (await harness.cache.stats()).usedPages - usedPages;
    if (all) expect(taken).toBe(pages[tokens - 1]);
    else expect(taken).toBeLessThanOrEqual(pages[tokens - 1]!);
    harness.cache.dispose();
  });
  await fc.assert(property, RUNS);
});

test('of several sequences it says what it says of each', async () => {
  const lengths = fc.array(fc.integer({ min: 0, max: 300 }), { maxLength: 5 });
  const property = fc.asyncProperty(shapes, lengths, fc.integer({ min: 0, max: 200 }), seeds, async (shape, before, tokens, seed) => {
    const harness = new Harness(device, shape, random(seed));
    const sequences = [];
    for (const length of before) {
      const member = await harness.create();
      if (length > 0) await harness.insert(harness.data([member], [length], DENSITIES));
      sequences.push(member.sequence, await member.sequence.fork());
    }
    const alone = await Promise.all(sequences.map((sequence) => sequence.forecast(tokens)));
    expect(await harness.cache.forecast(sequences, tokens)).toEqual(alone);
    harness.cache.dispose();
  });
  await fc.assert(property, RUNS);
});

test('refuses what is no number of tokens, and a sequence that is gone', async () => {
  const harness = new Harness(device, { layers: 1, kvHeads: 1, group: 1, headDim: 2, window: 4, slack: 0, dtype: 'f32' }, random(1));
  const { sequence } = await harness.create();
  expect(await sequence.forecast(0)).toHaveLength(0);
  await expectError(async () => sequence.forecast(-1), 'INVALID_ARGUMENT', 'tokens', '-1');
  const other = new Harness(device, { layers: 1, kvHeads: 1, group: 1, headDim: 2, window: 4, slack: 0, dtype: 'f32' }, random(1));
  await expectError(async () => harness.cache.forecast([sequence, (await other.create()).sequence], 1), 'INVALID_ARGUMENT', 'sequences[1]', 'of this cache');
  await sequence.dispose();
  await expectError(async () => sequence.forecast(1), 'DISPOSED');
});
