import fc from 'fast-check';
import { sample, type Tensor } from '../../lib/ops.js';
import { normals, random } from '../support/device.js';
import { failure, padded, paddings, Poisoned, refusal, seeds, testDevices } from '../support/operands.js';
import { naive, NEUTRAL, penalized, row, type Settings, uniformOf } from '../support/sampling.js';

/** A bit for every allowed token; the bits past the last token are set, and mean nothing. */
function bits(allowed: readonly boolean[]): Int32Array {
  const words = new Int32Array(Math.ceil(allowed.length / 32)).fill(-1);
  for (const [id, may] of allowed.entries()) if (!may) words[id >> 5]! &= ~(1 << (id & 31));
  return words;
}

/** What is drawn from the allowed tokens alone, if the mask were a matter of leaving the others out. */
function expected(logits: Float32Array, allowed: readonly boolean[], settings: Settings, uniform: number, history?: Int32Array): { id: number; margin: number } {
  const ids = [...allowed.keys()].filter((id) => allowed[id]);
  const x = penalized(logits, settings, history);
  const { id, margin } = naive(Float64Array.from(ids, (each) => x[each]!), settings, uniform);
  return { id: ids[id]!, margin };
}

describe.each(testDevices())('the mask of sample on %s', (_, device) => {
  const tables = (settings: readonly Settings[], seed: number) => ({
    settings: device.from(Float32Array.from(settings.flatMap(row)), [settings.length, 7]),
    seeds: device.from(Int32Array.from(settings.flatMap((_, b) => [seed | 0, b])), [settings.length, 2]),
    positions: device.from(Int32Array.from(settings.keys()), [settings.length]),
  });

  test('agrees with a row that has the allowed tokens only', async () => {
    const chance = <T>(neutral: T, arbitrary: fc.Arbitrary<T>) => fc.oneof(fc.constant(neutral), arbitrary);
    const setting: fc.Arbitrary<Settings> = fc.record({
      temperature: fc.constantFrom(0, 0.5, 1, 2),
      topK: chance(0, fc.integer({ min: 1, max: 40 })),
      topP: chance(1, fc.constantFrom(0.3, 0.9)),
      minP: chance(0, fc.constantFrom(0.01, 0.5)),
      repetition: chance(1, fc.constantFrom(2)),
      frequency: chance(0, fc.constantFrom(0.25)),
      presence: chance(0, fc.constantFrom(-0.5)),
    });
    const sizes = fc.oneof({ weight: 4, arbitrary: fc.integer({ min: 1, max: 300 }) }, fc.integer({ min: 4000, max: 9000 }));
    let rows = 0;
    let close = 0;
    const property = fc.asyncProperty(
      fc.array(setting, { minLength: 1, maxLength: 4 }), sizes, fc.constantFrom(0.005, 0.2, 0.9, 1), paddings, seeds,
      async (batch, V, share, padding, seed) => {
        const uniform = random(seed);
        const B = batch.length;
        // Multiples of a quarter: penalties are exact, and there are ties.
        const logits = normals(B * V, uniform, 8).map((value) => Math.round(value) / 4);
        const counts = Int32Array.from({ length: B * V }, () => (uniform() < 0.7 ? 0 : Math.floor(uniform() * 6)));
        const allowed = batch.map(() => {
          const may = Array.from({ length: V }, () => uniform() < share);
          may[Math.floor(uniform() * V)] = true;
          return may;
        });
        const history = new Poisoned(device, 'i32', [B, V], padding);
        history.view.write(counts);
        const words = Math.ceil(V / 32);
        const mask = padded(device, Int32Array.from(allowed.flatMap((each) => [...bits(each)])), [B, words], padding);
        const out = new Poisoned(device, 'i32', [B]);
        const table = tables(batch, seed);
        sample(out.view, padded(device, logits, [B, V], padding), table.settings, table.seeds, table.positions, history.view, mask);
        const ids = await out.read();
        const updated = await history.read();
        for (const [b, settings] of batch.entries()) {
          const part = [b * V, (b + 1) * V] as const;
          const { id, margin } = expected(logits.subarray(...part), allowed[b]!, settings, uniformOf([seed | 0, b], b), counts.subarray(...part));
          rows++;
          expect(allowed[b]![ids[b]!]).toBe(true);
          if (margin < 1e-5) close++;
          else expect(ids[b]).toBe(id);
          const after = counts.slice(...part);
          after[ids[b]!]! += 2;
          expect(updated.slice(...part)).toEqual(after);
        }
      },
    );
    await fc.assert(property, { numRuns: 60 });
    expect(close).toBeLessThan(rows / 4);
  });

  const run = (settings: Settings[], logits: Float32Array, mask: Int32Array | null, history?: Tensor) => {
    const B = settings.length;
    const out = device.tensor('i32', [B]);
    const table = tables(settings, 1);
    const given = mask && device.from(mask, [B, mask.length / B]);
    sample(out, device.from(logits, [B, logits.length / B]), table.settings, table.seeds, table.positions, history, given);
    return out;
  };

  test('a mask that allows all changes nothing', async () => {
    const [B, V] = [6, 5000];
    const logits = normals(B * V, random(3), 2);
    const settings = Array.from({ length: B }, (_, b) => ({ ...NEUTRAL, temperature: b % 3, topP: b % 2 ? 0.9 : 1 }));
    const masked = await run(settings, logits, new Int32Array(B * Math.ceil(V / 32)).fill(-1)).read();
    expect(masked).toEqual(await run(settings, logits, null).read());
  });

  test('one token that is allowed is taken, however unlikely', async () => {
    for (const [V, id] of [[40, 39], [5000, 4321], [5000, 0]] as const) {
      const logits = new Float32Array(2 * V).fill(100);
      logits[id] = logits[V + id] = -1e30;
      const only = bits(Array.from({ length: V }, (_, i) => i === id));
      for (const temperature of [0, 1e-3, 2]) {
        const out = run([{ ...NEUTRAL, temperature }, { ...NEUTRAL, temperature, topP: 0.5, topK: 7, minP: 0.9 }], logits, Int32Array.of(...only, ...only));
        expect([...(await out.read())]).toEqual([id, id]);
      }
    }
  });

  test('a mask that allows nothing is an error that names its row; the history stays', async () => {
    for (const V of [40, 5000]) {
      for (const temperature of [0, 1]) {
        const history = device.tensor('i32', [3, V]);
        const nothing = bits(Array.from({ length: V }, () => false));
        const all = bits(Array.from({ length: V }, () => true));
        const out = device.tensor('i32', [3]);
        const table = tables(Array.from({ length: 3 }, () => ({ ...NEUTRAL, temperature })), 1);
        const mask = device.from(Int32Array.of(...all, ...nothing, ...all), [3, all.length]);
        const error = await failure(
          () => sample(out, device.tensor('f32', [3, V]), table.settings, table.seeds, table.positions, history, mask), out,
        );
        expect(error).toMatchObject({ code: 'INVALID_ARGUMENT', message: 'Expected at least one allowed token for mask[1]' });
        expect((await history.read()).every((count) => count === 0)).toBe(true);
      }
    }
  });

  test('a logit that is not finite is an error even where it is not allowed', async () => {
    const logits = new Float32Array(40);
    logits[7] = NaN;
    const mask = bits(Array.from({ length: 40 }, (_, id) => id !== 7));
    const error = await run([NEUTRAL], logits, mask).read().catch((reason: unknown) => reason);
    expect(error).toMatchObject({ code: 'NON_FINITE' });
  });

  test('arguments are checked', () => {
    const given = (mask: Tensor, out = device.tensor('i32', [2])) => {
      const table = tables([NEUTRAL, NEUTRAL], 1);
      return refusal(() => sample(out, device.tensor('f32', [2, 40]), table.settings, table.seeds, table.positions, null, mask));
    };
    expect(given(device.tensor('i32', [2, 1]))).toBe('SHAPE');
    expect(given(device.tensor('i32', [1, 2]))).toBe('SHAPE');
    expect(given(device.tensor('f32', [2, 2]))).toBe('DTYPE');
    const both: Tensor = device.tensor('i32', [2, 2]);
    expect(given(both, both.view([2], [1], 1))).toBe('INVALID_ARGUMENT');
  });
});

