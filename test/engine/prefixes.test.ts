// What earlier requests have left in the cache changes nothing but time.
import { Engine, type RequestOptions, type TextModel } from '../../lib/index.js';
import { random, testDevice } from '../support/device.js';
import { alone, expectFree, tinyModel, until } from '../support/engine.js';
import { temporaryDirectory } from '../support/files.js';

const device = testDevice();
const root = temporaryDirectory();
let model: TextModel;
beforeAll(async () => {
  model = await tinyModel(root, { device, pages: 500 });
});
afterAll(() => model.dispose());
afterEach(() => expectFree(model));

const uniform = random(2);
const tokens = (count: number) => Array.from({ length: count }, () => 1 + Math.floor(uniform() * 45));
const SHORT: RequestOptions = { maxTokens: 12, ignoreEos: true, logprobs: 1 };

async function run(engine: Engine, prompt: readonly number[], options: RequestOptions = SHORT) {
  const { choices, usage } = await engine.generate(prompt, options).result;
  return { tokens: choices.map((choice) => choice.tokens), cached: usage.cachedTokens, ids: choices[0]!.tokens.map(({ id }) => id) };
}

test('the same prompt again is not read again, and gives the same to the bit', async () => {
  await using engine = new Engine(model);
  const prompt = tokens(80);
  const first = await run(engine, prompt);
  const second = await run(engine, prompt);
  expect([first.cached, second.cached]).toEqual([0, 79]);
  expect(second.tokens).toEqual(first.tokens);
});

test('prompts with the same beginning share it up to a multiple of the chunk', async () => {
  const [shared, a, b] = [tokens(75), tokens(20), tokens(30)];
  await using fresh = new Engine(model, { reuse: 'none' });
  const expected = await run(fresh, [...shared, ...b]);
  await using engine = new Engine(model, { reuse: 'exact' });
  expect((await run(engine, [...shared, ...a])).cached).toBe(0);
  const found = await run(engine, [...shared, ...b]);
  expect(found.cached).toBe(64);
  expect(found.tokens).toEqual(expected.tokens);
  // A shorter prompt that the cache has gone past is cut where it has always been.
  expect((await run(engine, [...shared, ...a].slice(0, 70))).cached).toBe(64);
  expect(expected.cached).toBe(0);
  expect(engine.stats().prefixes).toMatchObject({ hits: 2, misses: 1 });
});

test('a conversation goes on from the end of its last turn, as a session does', async () => {
  const [question, next] = [tokens(40), tokens(9)];
  await using session = model.createSession();
  const first = model.generate(question, { session, maxTokens: 12, ignoreEos: true });
  await first.text();
  const answer = (await first.result).ids;
  const second = model.generate([...question, ...answer, ...next], { session, maxTokens: 12, ignoreEos: true });
  await second.text();
  await using engine = new Engine(model);
  expect((await run(engine, question)).ids).toEqual(answer);
  const turn = await run(engine, [...question, ...answer, ...next]);
  expect(turn.cached).toBe(40 + 12 - 1);
  expect(turn.ids).toEqual((await second.result).ids);
  expect((await second.result).usage.cachedTokens).toBe(turn.cached);
  // The other way: nothing that was written is taken for what was read.
  await using strict = new Engine(model, { reuse: 'exact' });
  await run(strict, question);
  expect((await run(strict, [...question, ...answer, ...next])).cached).toBe(32);
  await session.dispose();
});

test('thresholds do not share', async () => {
  await using engine = new Engine(model);
  const prompt = tokens(70);
  await run(engine, prompt, { ...SHORT, threshold: 0.5 });
  expect((await run(engine, prompt, { ...SHORT, threshold: 0.6 })).cached).toBe(0);
  expect((await run(engine, prompt, { ...SHORT, threshold: 0.5 })).cached).toBe(69);
});

test('states keep to their share of the pool, the last used stay', async () => {
  await using engine = new Engine(model, { reuse: 'exact', reuseShare: 0.1 });
  const prompts = Array.from({ length: 8 }, () => tokens(60));
  for (const prompt of prompts) await run(engine, prompt);
  const { prefixes } = engine.stats();
  expect(prefixes.dropped).toBeGreaterThan(0);
  expect(prefixes.pages).toBeLessThanOrEqual(50);
  await until(() => engine.stats().pool.usedPages <= 50);
  expect((await run(engine, prompts.at(-1)!)).cached).toBe(59);
  expect((await run(engine, prompts[0]!)).cached).toBe(0);
});

test('states make room for requests', async () => {
  const small = await tinyModel(root, { device, pages: 60 });
  const engine = new Engine(small, { reuseShare: 1 });
  const prompts = Array.from({ length: 10 }, () => tokens(100));
  for (const prompt of prompts) expect((await run(engine, prompt)).ids).toEqual((await alone(model, prompt, SHORT))[0]);
  const { prefixes, preemptions } = engine.stats();
  expect(prefixes.dropped).toBeGreaterThan(0);
  expect(preemptions).toEqual({ saved: 0, dropped: 0 });
  await engine.close();
  await expectFree(small);
  small.dispose();
});

test('n texts share the prompt, and each is what it is alone', async () => {
  await using engine = new Engine(model, { reuse: 'none' });
  const prompt = tokens(100);
  const options = { ...SHORT, n: 4, temperature: 1, seed: 11 };
  const { tokens: texts } = await run(engine, prompt, options);
  expect(engine.stats().tokens.read).toBe(99);
  expect(texts.map((text) => text.map(({ id }) => id))).toEqual(await alone(model, prompt, options));
  expect(new Set(texts.map((text) => text.map(({ id }) => id).join())).size).toBeGreaterThan(1);
});
