import fc from 'fast-check';
import { type Device, recordPrompt, sample, type Tensor } from '../../lib/ops.js';
import { normals, random } from '../support/device.js';
import { failure, padded, paddings, Poisoned, refusal, seeds, testDevices } from '../support/operands.js';
import { filtered, naive, NEUTRAL, penalized, philox, row, type Settings, uniformOf } from '../support/sampling.js';

const repeat = <T>(count: number, value: T): T[] => Array.from({ length: count }, () => value);
interface Batch {
  logits: Float32Array;
  settings: Partial<Settings>[];
  seeds: [number, number][];
  positions: number[];
  history?: Tensor;
  padding?: number;
}

async function draw(device: Device, batch: Batch): Promise<number[]> {
  const B = batch.settings.length;
  const out = new Poisoned(device, 'i32', [B]);
  sample(
    out.view,
    padded(device, batch.logits, [B, batch.logits.length / B], batch.padding ?? 0),
    device.from(Float32Array.from(batch.settings.flatMap(row)), [B, 7]),
    device.from(Int32Array.from(batch.seeds.flat()), [B, 2]),
    device.from(Int32Array.from(batch.positions), [B]),
    batch.history,
  );
  return Array.from(await out.read());
}

/** One row drawn `count` times, at as many positions: how often each id came. */
async function countDraws(device: Device, logits: number[], settings: Partial<Settings>, count: number): Promise<number[]> {
  const V = logits.length;
  const counts = repeat(V, 0);
  const ids = await draw(device, {
    logits: Float32Array.from({ length: count * V }, (_, i) => logits[i % V]!),
    settings: repeat(count, settings),
    seeds: repeat(count, [12345, -678]),
    positions: Array.from({ length: count }, (_, i) => i),
  });
  for (const id of ids) counts[id]!++;
  return counts;
}

/** How many standard deviations chi-square lies above its mean (Wilson and Hilferty's normal approximation). */
function surprise(counts: number[], probabilities: number[]): number {
  const draws = counts.reduce((sum, count) => sum + count, 0);
  let chi = 0;
  for (const [i, count] of counts.entries()) {
    if (probabilities[i] === 0) expect(count).toBe(0);
    else chi += (count - draws * probabilities[i]!) ** 2 / (draws * probabilities[i]!);
  }
  const freedom = probabilities.filter((p) => p > 0).length - 1;
  if (freedom === 0) return chi === 0 ? 0 : Infinity;
  return (Math.cbrt(chi / freedom) - (1 - 2 / (9 * freedom))) / Math.sqrt(2 / (9 * freedom));
}

test('the oracle knows the published values of Philox', () => {
  const hex = (words: bigint[]) => words.map((word) => word.toString(16).padStart(8, '0')).join(' ');
  expect(hex(philox([0n, 0n, 0n, 0n], [0n, 0n]))).toBe('6627e8d5 e169c58d bc57ac4c 9b00dbd8');
  const digitsOfPi = [[0x243f6a88n, 0x85a308d3n, 0x13198a2en, 0x03707344n], [0xa4093822n, 0x299f31d0n]] as const;
  expect(hex(philox([...digitsOfPi[0]], [...digitsOfPi[1]]))).toBe('d16cfe09 94fdcceb 5001e420 24126ea1');
});

describe.each(testDevices())('sample on %s', (_, device) => {
  const one = (logits: number[], settings: Partial<Settings>, position = 0) =>
    draw(device, { logits: Float32Array.from(logits), settings: [settings], seeds: [[1, 2]], positions: [position] }).then((ids) => ids[0]);

  test('temperature 0 takes the largest logit, the lowest id among equals', async () => {
    const property = fc.asyncProperty(
      fc.integer({ min: 1, max: 4 }), fc.oneof(fc.integer({ min: 1, max: 130 }), fc.integer({ min: 1000, max: 9000 })), fc.boolean(), paddings, seeds,
      async (B, V, ties, padding, seed) => {
        const logits = normals(B * V, random(seed)).map((value) => (ties ? Math.round(value * 2) : value));
        const ids = await draw(device, {
          logits, padding, settings: repeat(B, { temperature: 0, topK: 3, topP: 0.1 }),
          seeds: repeat(B, [seed | 0, 0]), positions: repeat(B, 3),
        });
        const expected = Array.from({ length: B }, (_, b) => {
          const part = logits.subarray(b * V, (b + 1) * V);
          return part.indexOf(part.reduce((a, c) => Math.max(a, c)));
        });
        expect(ids).toEqual(expected);
      },
    );
    await fc.assert(property, { numRuns: 60 });
    expect(await one([-0, 0, -1], { temperature: 0 })).toBe(0);
    expect(await one([-3e38, -3.1e38], { temperature: 0 })).toBe(0);
  });

  test('the random number is that of Philox for (seed, position)', async () => {
    // Equal logits: the id is the integer part of V times the number.
    const V = 4096;
    const pairs: [number, number][] = [[0, 0], [1, 0], [0, 1], [-1, -1], [123456789, -987654321], [0x7fffffff, -0x80000000]];
    for (const seed of pairs) {
      for (const position of [0, 1, 77, 0x7fffffff]) {
        const [id] = await draw(device, { logits: new Float32Array(V), settings: [{}], seeds: [seed], positions: [position] });
        expect(id).toBe(Math.floor(uniformOf(seed, position) * V));
      }
    }
  });

  test('agrees with filters and draw written out in float64', async () => {
    const chance = <T>(neutral: T, arbitrary: fc.Arbitrary<T>) => fc.oneof(fc.constant(neutral), arbitrary);
    const float = (min: number, max: number) => fc.float({ min: Math.fround(min), max: Math.fround(max), noNaN: true });
    const settings = fc.record({
      temperature: fc.oneof(fc.constant(0), float(0.01, 4), fc.constantFrom(1e-30, 1e-6, 1, 1e6)),
      topK: chance(0, fc.integer({ min: 1, max: 600 })),
      topP: chance(1, fc.oneof(float(0, 1), fc.constantFrom(0, 1e-10, 0.5, 0.999))),
      minP: chance(0, fc.oneof(float(0, 1), fc.constantFrom(1e-9, 1))),
      repetition: chance(1, fc.constantFrom(2, 0.5)),
      frequency: chance(0, fc.constantFrom(0.25, -0.25)),
      presence: chance(0, fc.constantFrom(0.5, -0.5)),
    });
    let rows = 0;
    let close = 0;
    const property = fc.asyncProperty(
      fc.array(settings, { minLength: 1, maxLength: 6 }), fc.integer({ min: 1, max: 500 }), fc.constantFrom(0, 1, 4, 30), fc.boolean(), paddings, seeds,
      async (batch, V, scale, ties, padding, seed) => {
        const uniform = random(seed);
        const B = batch.length;
        // Quarters, so that penalties are exact and ties occur; or any numbers, with penalties that halve.
        const logits = normals(B * V, uniform, scale).map((value) => (ties ? Math.round(value) / 4 : value));
        const numbers = ties ? batch : batch.map((entry) => ({ ...entry, frequency: 0, presence: 0 }));
        const counts = Int32Array.from({ length: B * V }, () => (uniform() < 0.5 ? 0 : Math.floor(uniform() * 8)));
        const history = new Poisoned(device, 'i32', [B, V], padding);
        history.view.write(counts);
        const pairs = batch.map((): [number, number] => [(uniform() * 2 ** 32) | 0, (uniform() * 2 ** 32) | 0]);
        const positions = batch.map(() => Math.floor(uniform() * 10000));
        const ids = await draw(device, { logits, settings: numbers, seeds: pairs, positions, history: history.view, padding });
        const updated = await history.read();
        for (const [b, entry] of numbers.entries()) {
          const before = counts.subarray(b * V, (b + 1) * V);
          const x = penalized(logits.subarray(b * V, (b + 1) * V), entry, before);
          const { id, margin } = naive(x, entry, uniformOf(pairs[b]!, positions[b]!));
          rows++;
          if (margin < 1e-5) close++;
          else expect(ids[b]).toBe(id);
          const after = Array.from(before);
          after[ids[b]!]! += 2;
          expect(Array.from(updated.slice(b * V, (b + 1) * V))).toEqual(after);
        }
      },
    );
    await fc.assert(property, { numRuns: 150 });
    expect(close).toBeLessThan(rows / 5);
  });

  test.each([
    ['flat', 1e-3], ['spread', 1], ['like a language model', 3], ['sharp', 30], ['equal', 0],
  ])('agrees with it over a large vocabulary, %s', async (_name, scale) => {
    const V = 40000;
    const logits = normals(V, random(scale * 1000 + 1), scale);
    const batch: Partial<Settings>[] = [{}, { topP: 0.9 }, { topK: 50 }, { topK: 20000, topP: 0.5 }, { minP: 0.01 }, { minP: 1e-8, topP: 0.999 }, { temperature: 0.3 }, { temperature: 5 }];
    const B = batch.length;
    const positions = batch.map((_, b) => b);
    const ids = await draw(device, {
      logits: Float32Array.from({ length: B * V }, (_, i) => logits[i % V]!), settings: batch, seeds: batch.map(() => [5, 6]), positions,
    });
    for (const [b, entry] of batch.entries()) {
      const { id, margin } = naive(Float64Array.from(logits), { ...NEUTRAL, ...entry }, uniformOf([5, 6], b));
      // With equal logits the margin is that of a draw among V: compare unless it is at a boundary.
      if (margin > 1e-5) expect([entry, ids[b]]).toEqual([entry, id]);
    }
  });

  const logits = [2, -1, 0.5, 3, 0, 3, -4, 1.5, 2.5, -0.5, 1, 0.25];
  test.each<Partial<Settings>>([
    {}, { temperature: 0.5 }, { temperature: 3 }, { topK: 4 }, { topK: 1 }, { topK: 11 }, { topK: 12 }, { topK: 1000 }, { topP: 0.8 },
    { topP: 0.3 }, { topP: 1e-6 }, { topP: 0 }, { minP: 0.1 }, { minP: 1 }, { topK: 8, topP: 0.9, minP: 0.2, temperature: 1.5 },
  ])('draws with the right frequencies: %j', async (settings) => {
    const { ids, probabilities } = filtered(Float64Array.from(logits), { ...NEUTRAL, ...settings });
    const expected = logits.map((_, id) => probabilities[ids.indexOf(id)] ?? 0);
    expect(surprise(await countDraws(device, logits, settings, 20000), expected)).toBeLessThan(4);
  });

  test('draws at one position are as random over seeds', async () => {
    const V = 16;
    const count = 20000;
    const ids = await draw(device, {
      logits: new Float32Array(count * V), settings: repeat(count, {}),
      seeds: Array.from({ length: count }, (_, i) => [i, 0]), positions: repeat(count, 9),
    });
    const counts = repeat(V, 0);
    const pairs = repeat(V * V, 0);
    for (const [i, id] of ids.entries()) {
      counts[id]!++;
      if (i > 0) pairs[ids[i - 1]! * V + id]!++;
    }
    expect(surprise(counts, repeat(V, 1 / V))).toBeLessThan(4);
    expect(surprise(pairs, repeat(V * V, 1 / (V * V)))).toBeLessThan(4);
  });

  test('the same seed and position give the same token, whatever else is in the batch', async () => {
    const [B, V] = [40, 700];
    const uniform = random(11);
    const values = normals(B * V, uniform, 2);
    const settings = Array.from({ length: B }, (_, b): Partial<Settings> => ({ temperature: b % 5 === 0 ? 0 : 0.5 + (b % 3), topK: b % 4 === 0 ? 30 : 0, topP: b % 2 ? 0.9 : 1 }));
    const pairs = settings.map((_, b): [number, number] => [b, 7 * b]);
    const positions = settings.map((_, b) => 3 * b);
    const together = await draw(device, { logits: values, settings, seeds: pairs, positions });
    expect(await draw(device, { logits: values, settings, seeds: pairs, positions })).toEqual(together);
    for (let b = 0; b < B; b++) {
      const alone = await draw(device, { logits: values.slice(b * V, (b + 1) * V), settings: [settings[b]!], seeds: [pairs[b]!], positions: [positions[b]!], padding: 3 });
      expect(alone).toEqual([together[b]]);
    }
    const elsewhere = await draw(device, { logits: values, settings, seeds: pairs, positions: positions.map((p) => p + 1) });
    expect(elsewhere).not.toEqual(together);
  });

  test('penalties push down what was said, and the prompt counts for repetition alone', async () => {
    const V = 4;
    const history = device.tensor('i32', [1, V]);
    const say = async (settings: Partial<Settings>) =>
      (await draw(device, { logits: Float32Array.of(3, 2.9, 2.8, -1), settings: [{ temperature: 0, ...settings }], seeds: [[0, 0]], positions: [0], history }))[0];
    recordPrompt(history.at(0), device.from(Int32Array.of(0, 0, 0)));
    expect(await say({ frequency: 5, presence: 5 })).toBe(0); // in the prompt only
    expect(await say({ presence: 0.05 })).toBe(0); // now said once: 2.95
    expect(await say({ frequency: 0.06 })).toBe(1); // said twice: 2.88
    expect(await say({ repetition: 2 })).toBe(2);
    expect(await say({ repetition: 100 })).toBe(0); // all three seen; 0.03 is the largest
    expect(Array.from(await history.read())).toEqual([7, 2, 2, 0]);
  });

  test('a logit that is not finite is an error that names it; the history stays', async () => {
    for (const bad of [NaN, Infinity, -Infinity]) {
      const [B, V] = [3, 2000];
      const values = new Float32Array(B * V);
      values[V + 1999] = bad;
      const history = device.tensor('i32', [B, V]);
      const out = device.tensor('i32', [B]);
      for (const temperature of [0, 1]) {
        const settings = device.from(Float32Array.from(repeat(B, row({ temperature })).flat()), [B, 7]);
        const run = () => sample(out, device.from(values, [B, V]), settings, device.tensor('i32', [B, 2]), device.tensor('i32', [B]), history);
        const error = await failure(run, out);
        expect(error.code).toBe('NON_FINITE');
        expect(error.message).toContain('logits[1, 1999]');
        expect(Array.from(await history.read()).every((count) => count === 0)).toBe(true);
      }
    }
  });

  test.each<[Partial<Settings>, string]>([
    [{ temperature: -1 }, 'a temperature of at least 0'], [{ temperature: NaN }, 'a temperature of at least 0'],
    [{ temperature: Infinity }, 'a temperature of at least 0'], [{ topK: -1 }, 'a top-k of at least 0'], [{ topP: 1.5 }, 'a top-p from 0 to 1'],
    [{ topP: NaN }, 'a top-p from 0 to 1'], [{ minP: -0.5 }, 'a min-p from 0 to 1'], [{ repetition: 0 }, 'a repetition penalty above 0'],
    [{ frequency: Infinity }, 'a finite frequency penalty'], [{ presence: NaN }, 'a finite presence penalty'],
    [{ presence: 1 }, 'a history for the penalties'],
  ])('the settings %j are refused', async (settings, expected) => {
    const out = device.tensor('i32', [2]);
    const table = device.from(Float32Array.from([...row({}), ...row(settings)]), [2, 7]);
    const error = await failure(() => sample(out, device.tensor('f32', [2, 5]), table, device.tensor('i32', [2, 2]), device.tensor('i32', [2])), out);
    expect(error.code).toBe('INVALID_ARGUMENT');
    expect(error.message).toContain(`Expected ${expected}`);
    expect(error.message).toContain('settings[1');
  });

  test('arguments are checked', () => {
    const good = {
      out: device.tensor('i32', [2]), logits: device.tensor('f32', [2, 5]), settings: device.tensor('f32', [2, 7]),
      seeds: device.tensor('i32', [2, 2]), positions: device.tensor('i32', [2]), history: device.tensor('i32', [2, 5]),
    };
    const refused = (change: Partial<typeof good>) =>
      refusal(() => {
        const all = { ...good, ...change };
        sample(all.out, all.logits, all.settings, all.seeds, all.positions, all.history);
      });
    expect(refused({ out: device.tensor('f32', [2]) })).toBe('DTYPE');
    expect(refused({ logits: device.tensor('bf16', [2, 5]) })).toBe('DTYPE');
    expect(refused({ settings: device.tensor('i32', [2, 7]) })).toBe('DTYPE');
    expect(refused({ seeds: device.tensor('f32', [2, 2]) })).toBe('DTYPE');
    expect(refused({ positions: device.tensor('f32', [2]) })).toBe('DTYPE');
    expect(refused({ history: device.tensor('u8', [2, 5]) })).toBe('DTYPE');
    expect(refused({ out: device.tensor('i32', [3]) })).toBe('SHAPE');
    expect(refused({ logits: device.tensor('f32', [2, 0]), history: device.tensor('i32', [2, 0]) })).toBe('SHAPE');
    expect(refused({ settings: device.tensor('f32', [2, 6]) })).toBe('SHAPE');
    expect(refused({ seeds: device.tensor('i32', [2, 1]) })).toBe('SHAPE');
    expect(refused({ positions: device.tensor('i32', [1]) })).toBe('SHAPE');
    expect(refused({ history: device.tensor('i32', [2, 6]) })).toBe('SHAPE');
    expect(refused({ history: 5 as never })).toBe('INVALID_ARGUMENT');
    expect(refused({ positions: good.out })).toBe('INVALID_ARGUMENT');
    expect(refused({ seeds: good.history.view([2, 2], [2, 1], 0), out: good.history.view([2], [1], 2) })).toBe('INVALID_ARGUMENT');
    expect(refused({ out: good.history.view([2], [1], 5) })).toBe('INVALID_ARGUMENT');
  });
});

describe.each(testDevices())('record_prompt on %s', (_, device) => {
  test('marks the tokens of a prompt and keeps counts', async () => {
    const history = device.from(Int32Array.of(0, 2, 4, 5, 0, 0), [2, 3]);
    recordPrompt(history.at(1), device.from(Int32Array.of(2, 0, 2)));
    expect(Array.from(await history.read())).toEqual([0, 2, 4, 5, 0, 1]);
  });

  test.each([-1, 3])('the id %d is out of the range of 3 tokens, and nothing is marked', async (id) => {
    const history = device.tensor('i32', [3]);
    const error = await failure(() => recordPrompt(history, device.from(Int32Array.of(1, id))), history);
    expect(error.code).toBe('OUT_OF_RANGE');
    expect(error.message).toContain(`Expected an id from 0 to 2 for ids[1] but received ${id}`);
    expect(Array.from(await history.read())).toEqual([0, 0, 0]);
  });

  test('arguments are checked', () => {
    const history = device.tensor('i32', [3]);
    const ids = device.tensor('i32', [2]);
    expect(refusal(() => recordPrompt(device.tensor('f32', [3]), ids))).toBe('DTYPE');
    expect(refusal(() => recordPrompt(history, device.tensor('f32', [2])))).toBe('DTYPE');
    expect(refusal(() => recordPrompt(device.tensor('i32', [3, 1]), ids))).toBe('SHAPE');
    expect(refusal(() => recordPrompt(history, device.tensor('i32', [2, 1])))).toBe('SHAPE');
    expect(refusal(() => recordPrompt(history, history.slice(0, 0, 2)))).toBe('INVALID_ARGUMENT');
  });
});
