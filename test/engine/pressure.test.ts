// Pools that are too small for what is asked: who makes room, and that nobody notices but by the clock.
import { Rates } from '../../lib/engine/rates.js';
import { Engine, type RequestOptions, type TextModel } from '../../lib/index.js';
import { random, testDevice } from '../support/device.js';
import { alone, begun, expectFree, tinyModel } from '../support/engine.js';
import { temporaryDirectory } from '../support/files.js';

const device = testDevice();
const root = temporaryDirectory();
let reference: TextModel;
beforeAll(async () => {
  reference = await tinyModel(root, { device });
});
afterAll(() => reference.dispose());

const uniform = random(9);
const tokens = (count: number) => Array.from({ length: count }, () => 1 + Math.floor(uniform() * 45));
const jobs = Array.from({ length: 6 }, (_, i) => ({
  prompt: tokens(20 + 25 * i),
  options: { maxTokens: 90, threshold: 0, ignoreEos: true, temperature: 1, seed: i, frequencyPenalty: i % 2 } as RequestOptions,
}));
const expected: number[][][] = [];
beforeAll(async () => {
  for (const { prompt, options } of jobs) expected.push(await alone(reference, prompt, options));
});

/** What the engine believes: that saving costs much, or reading. */
const rates = { saved: () => at((all) => all.read, 1e9), dropped: () => at((all) => all.save, 1e9) };
function at(which: (rates: Rates) => { note(value: number): void }, value: number): Rates {
  const all = new Rates();
  which(all).note(value);
  return all;
}

test.each(['saved', 'dropped'] as const)('texts make room and come back as if nothing had been: their state is %s', async (way) => {
  const model = await tinyModel(root, { device, pages: 40 });
  const engine = new Engine(model, { reuse: 'none' }, rates[way]());
  const requests = jobs.map(({ prompt, options }) => engine.generate(prompt, options));
  const texts = await Promise.all(requests.map(async ({ result }) => (await result).choices.map((choice) => choice.tokens.map(({ id }) => id))));
  expect(texts).toEqual(expected);
  const { preemptions, requests: counts, tokens: { written } } = engine.stats();
  expect(preemptions[way]).toBeGreaterThan(0);
  expect(preemptions[way === 'saved' ? 'dropped' : 'saved']).toBe(0);
  expect(counts).toMatchObject({ finished: jobs.length, failed: 0 });
  expect(written).toBe(texts.flat(2).length); // what is read again is not written again
  await engine.close();
  await expectFree(model);
  model.dispose();
});

test('the oldest goes on, the youngest makes room', async () => {
  const model = await tinyModel(root, { device, pages: 40 });
  const engine = new Engine(model, { reuse: 'none' }, rates.saved());
  const ended: number[] = [];
  const prompt = tokens(60);
  const requests = Array.from({ length: 5 }, (_, i) => {
    const request = engine.generate(prompt, { maxTokens: 150, threshold: 0, ignoreEos: true });
    request.result.then(() => ended.push(i));
    return request;
  });
  await Promise.all(requests.map(({ result }) => result));
  expect(engine.stats().preemptions.saved).toBeGreaterThan(0);
  expect(ended).toEqual([0, 1, 2, 3, 4]);
  await engine.close();
  model.dispose();
});

test('a higher priority takes the place of a lower one, and an equal one waits', async () => {
  // Room for any of them, but not for two.
  const model = await tinyModel(root, { device, pages: 24 });
  const engine = new Engine(model, { reuse: 'none' }, rates.saved());
  const ended: string[] = [];
  const start = (name: string, length: number, options: RequestOptions) => {
    const request = engine.generate(tokens(length), { threshold: 0, ignoreEos: true, ...options });
    request.result.then(() => ended.push(name));
    return request;
  };
  const low = start('low', 200, { maxTokens: 50 });
  await begun(low);
  const others = [start('equal', 100, { maxTokens: 20 }), start('high', 100, { maxTokens: 20, priority: 1 })];
  await Promise.all([low, ...others].map(({ result }) => result));
  expect(ended).toEqual(['high', 'low', 'equal']);
  expect(engine.stats().preemptions).toEqual({ saved: 1, dropped: 0 });
  await engine.close();
  model.dispose();
});

test('a client that asks for much does not keep another one waiting', async () => {
  await using engine = new Engine(reference, { maxSequences: 2, reuse: 'none' });
  const ended: string[] = [];
  const start = (client: string) => {
    const request = engine.generate(tokens(40), { maxTokens: 20, ignoreEos: true, client });
    request.result.then(() => ended.push(client));
    return request;
  };
  const all = Array.from({ length: 12 }, () => start('much'));
  await begun(all[0]!);
  all.push(start('little'));
  await Promise.all(all.map(({ result }) => result));
  // After the two that are written, beside the next one at the latest.
  expect(ended.indexOf('little')).toBeLessThan(4);
});

test('a short prompt does not wait for a long one to be read', async () => {
  // Where reading takes long, no wait between the two counts as much.
  await using engine = new Engine(reference, { reuse: 'none' }, rates.saved());
  const ended: string[] = [];
  const start = (name: string, length: number) => {
    const { result } = engine.generate(tokens(length), { maxTokens: 1, ignoreEos: true });
    result.then(() => ended.push(name));
    return result;
  };
  await Promise.all([start('long', 250), start('short', 20)]);
  expect(ended).toEqual(['short', 'long']);
});

test('sequences of others in the same cache are left in peace', async () => {
  const model = await tinyModel(root, { device, pages: 40 });
  const other = await model.createSequence({ threshold: 0 });
  await model.prefill(other, tokens(250));
  const { usedPages } = await model.cache.stats();
  const engine = new Engine(model, { reuse: 'none' });
  const results = await Promise.all(jobs.slice(0, 3).map(({ prompt, options }) => engine.generate(prompt, options).result));
  expect(results.map(({ choices }) => choices.map((choice) => choice.tokens.map(({ id }) => id)))).toEqual(expected.slice(0, 3));
  await engine.close();
  expect((await model.cache.stats()).usedPages).toBe(usedPages);
  await other.dispose();
  model.dispose();
});
