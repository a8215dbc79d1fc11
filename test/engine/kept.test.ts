// What requests are told of the pairs that are kept.
import { Rates } from '../../lib/engine/rates.js';
import { Engine, type KeptToken, type Request, type RequestResult, type TextModel } from '../../lib/index.js';
import { random, testDevice } from '../support/device.js';
import { expectFree, tinyModel } from '../support/engine.js';
import { temporaryDirectory } from '../support/files.js';

const device = testDevice();
const root = temporaryDirectory();
let model: TextModel;
beforeAll(async () => {
  model = await tinyModel(root, { device, pages: 600 });
});
afterAll(() => model.dispose());
afterEach(() => expectFree(model));

const uniform = random(4);
const tokens = (count: number) => Array.from({ length: count }, () => 1 + Math.floor(uniform() * 45));
const ASK = { kept: true, maxTokens: 40, ignoreEos: true } as const;
const masks = (kept: readonly KeptToken[] | undefined) => kept!.map((token) => [...token.kept]);

/**
 * What the cache keeps of each of `ids`, found out by itself: they are read one by one, and behind them as many as the
 * window has, so that each leaves it in a step of its own.
 */
async function leaving(ids: readonly number[], threshold: number): Promise<number[][]> {
  await using sequence = await model.createSequence({ threshold });
  const found: number[][] = [];
  let before = (await sequence.stats()).kept;
  for (const [i, id] of [...ids, ...Array(model.cache.window).fill(1)].entries()) {
    await model.step([{ sequence, ids: [id] }]);
    const { kept } = await sequence.stats();
    if (i >= model.cache.window) found.push(Array.from(kept, (count, list) => count - before[list]!));
    before = kept;
  }
  return found;
}

/** Expects that what a text was told adds up to what it held: the pairs of the tokens that have left the window. */
function expectReport({ cache, kept }: RequestResult['choices'][number]): void {
  const { layers, kvHeads, window } = model.cache;
  expect(kept).toHaveLength(cache.length);
  const left = masks(kept).slice(0, Math.max(0, cache.length - window));
  const share = (list: number) => (left.length === 0 ? 1 : left.reduce((sum, mask) => sum + mask[list]!, 0) / left.length);
  expect(cache.densities).toEqual(Array.from({ length: layers }, (_, layer) => Array.from({ length: kvHeads }, (_, head) => share(layer * kvHeads + head))));
  expect(cache.pairs).toBe(left.flat().reduce((a, b) => a + b, 0) + layers * kvHeads * Math.min(cache.length, window));
}

/** Reads all events of a request: what they tell of each text, put together. */
async function told(request: Request): Promise<{ kept: KeptToken[]; text: string }[]> {
  const texts = request.choices.map(() => ({ kept: [] as KeptToken[], text: '' }));
  for await (const { index, kept, text } of request) {
    texts[index]!.kept.push(...kept!);
    texts[index]!.text += text;
  }
  return texts;
}

test.each([0, 0.5, 2])('every token that is read is told once, with what the cache keeps of it, at threshold %d', async (threshold) => {
  await using engine = new Engine(model);
  const prompt = tokens(75);
  const request = engine.generate(prompt, { ...ASK, threshold });
  const beside = engine.generate(tokens(50), { ...ASK, kept: false });
  const [text] = await told(request);
  const { choices: [choice] } = await request.result;
  const ids = [...prompt, ...choice!.tokens.map(({ id }) => id)].slice(0, -1);
  expect(text!.kept.map(({ id }) => id)).toEqual(ids);
  expect(text!.text).toBe(choice!.text);
  expect(choice!.kept).toEqual(text!.kept);
  expect(masks(text!.kept)).toEqual(await leaving(ids, threshold));
  if (threshold === 0.5) expect(new Set(masks(text!.kept).flat()).size).toBe(2);
  expectReport(choice!);
  const other = (await beside.result).choices[0]!;
  expect(other).not.toHaveProperty('kept');
  expect(other.cache).toMatchObject({ length: 50 + 40 - 1, threshold: 0.5, window: 16 });
});

test('each of n texts is told what it has read itself, and the first one the prompt', async () => {
  await using engine = new Engine(model);
  const prompt = tokens(50);
  const request = engine.generate(prompt, { ...ASK, n: 3, temperature: 1, seed: 5 });
  const texts = await told(request);
  const { choices } = await request.result;
  for (const [i, { kept }] of texts.entries()) {
    expect(kept).toEqual(i === 0 ? choices[0]!.kept : choices[i]!.kept!.slice(prompt.length - 1));
    expectReport(choices[i]!);
  }
});

test('states of the cache serve those who ask if they know the answer', async () => {
  await using engine = new Engine(model);
  const prompt = tokens(90);
  const first = await engine.generate(prompt, { ...ASK, kept: false }).result;
  const second = await engine.generate(prompt, ASK).result;
  const third = engine.generate(prompt, ASK);
  const [text] = await told(third);
  expect([first.usage, second.usage, (await third.result).usage].map(({ cachedTokens }) => cachedTokens)).toEqual([0, 0, 89]);
  expect(text!.kept).toEqual(second.choices[0]!.kept);
  const ids = [...prompt, ...second.choices[0]!.tokens.map(({ id }) => id)];
  const turn = await engine.generate([...ids, ...tokens(7)], ASK).result;
  expect(turn.usage.cachedTokens).toBe(ids.length - 1);
  expect(masks(turn.choices[0]!.kept!.slice(0, ids.length - 1))).toEqual(masks(second.choices[0]!.kept));
  for (const { choices } of [second, turn]) expectReport(choices[0]!);
});

test.each(['saved', 'dropped'] as const)('texts that had to make room are told nothing twice: their state is %s', async (way) => {
  const small = await tinyModel(root, { device, pages: 40 });
  const rates = new Rates();
  rates[way === 'saved' ? 'read' : 'save'].note(1e9);
  const engine = new Engine(small, { reuse: 'none' }, rates);
  const requests = Array.from({ length: 5 }, (_, i) => engine.generate(tokens(20 + 20 * i), { ...ASK, maxTokens: 90, threshold: 0.3 }));
  const texts = await Promise.all(requests.map(told));
  for (const [i, request] of requests.entries()) {
    const [choice] = (await request.result).choices;
    expect(texts[i]![0]!.kept).toEqual(choice!.kept);
    expectReport(choice!);
  }
  expect(engine.stats().preemptions[way]).toBeGreaterThan(0);
  await engine.close();
  await expectFree(small);
  small.dispose();
});

test('a text that fails alone takes nothing from what the others are told', async () => {
  const poison = 46;
  const poisoned = await tinyModel(root, { device }, {}, 3, poison);
  const engine = new Engine(poisoned);
  const [good] = [engine.generate(tokens(40), ASK), engine.generate(tokens(30), { ...ASK, repetitionPenalty: 3e38 }), engine.generate([3, poison], ASK)];
  expectReport((await good.result).choices[0]!);
  await engine.close();
  poisoned.dispose();
});
