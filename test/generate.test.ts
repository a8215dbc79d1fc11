import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { loadModel, type TextModel } from '../lib/index.js';
import { SPKV, tinyConfig, writeRandomCheckpoint } from './support/checkpoints.js';
import { testDevice } from './support/device.js';
import { expectError } from './support/errors.js';
import { temporaryDirectory } from './support/files.js';
import { MODEL_DIR } from './support/golden.js';

const device = testDevice();
const sample = readFileSync('models/sample.py', 'utf8');
const prompt = sample.slice(0, 800);
const root = temporaryDirectory();
let model: TextModel;
beforeAll(async () => {
  model = await loadModel(MODEL_DIR, { device });
});
afterAll(() => model.dispose());

test('streams pieces that make up the text, with usage and cache at the end', async () => {
  const generation = model.generate(prompt, { maxTokens: 40 });
  let text = '';
  for await (const piece of generation) text += piece;
  const result = await generation.result;
  expect(result.text).toBe(text);
  expect(result.finishReason).toBe('length');
  expect(result.usage).toMatchObject({ promptTokens: 801, cachedTokens: 0, completionTokens: 40 });
  expect(result.ids).toHaveLength(40);
  expect(model.decode(result.ids)).toBe(text);
  expect(result.cache).toMatchObject({ length: 840, threshold: 0.5, window: 128, densePairs: 16 * 840 });
  expect(result.cache.density).toBeGreaterThan(0.2);
  expect(result.cache.density).toBeLessThan(0.9);
  expect(result.cache.bytes).toBeLessThan(result.cache.denseBytes);
  expect((await model.cache.stats()).sequences).toBe(0);
});

test('the same seed gives the same text, another one another', async () => {
  const run = (seed: number) => model.generate(prompt, { maxTokens: 30, temperature: 1, topP: 0.95, seed }).text();
  const [a, b, c] = [await run(1), await run(1), await run(2)];
  expect(a).toBe(b);
  expect(c).not.toBe(a);
});

test('generations at the same time do not disturb each other', async () => {
  const starts = [0, 300, 900].map((start) => sample.slice(start, start + 500));
  const single = [];
  for (const start of starts) single.push(await model.generate(start, { maxTokens: 25 }).text());
  expect(await Promise.all(starts.map((start) => model.generate(start, { maxTokens: 25 }).text()))).toEqual(single);
});

test('a stop string ends the text and is not part of it', async () => {
  const whole = await model.generate(prompt, { maxTokens: 60 }).text();
  const stop = whole.slice(20, 24);
  const generation = model.generate(prompt, { maxTokens: 60, stop: [stop, 'never seen'] });
  const text = await generation.text();
  expect(text).toBe(whole.slice(0, whole.indexOf(stop)));
  expect((await generation.result).finishReason).toBe('stop');
});

test('leaving the loop frees the sequence', async () => {
  const generation = model.generate(prompt, { maxTokens: 200 });
  for await (const _ of generation) break;
  expect((await generation.result).finishReason).toBe('cancelled');
  expect((await model.cache.stats()).sequences).toBe(0);
});

test('a signal ends it with its reason, whenever it comes', async () => {
  const reason = new Error('stop it');
  await expect(model.generate(prompt, { signal: AbortSignal.abort(reason) }).text()).rejects.toBe(reason);
  for (const during of ['prefill', 'decode'] as const) {
    const controller = new AbortController();
    const generation = model.generate(prompt, {
      maxTokens: 500, signal: controller.signal, onPrefill: () => during === 'prefill' && controller.abort(reason),
    });
    const loop = async () => {
      for await (const _ of generation) if (during === 'decode') controller.abort(reason);
    };
    await expect(loop()).rejects.toBe(reason);
    await expect(generation.result).rejects.toBe(reason);
  }
  expect((await model.cache.stats()).sequences).toBe(0);
});

test('penalties change what is repeated', async () => {
  const plain = await model.generate('x = 1\nx = 1\nx = 1\n', { maxTokens: 40 }).text();
  const penalised = await model.generate('x = 1\nx = 1\nx = 1\n', { maxTokens: 40, repetitionPenalty: 1.5, frequencyPenalty: 1 }).text();
  expect(penalised).not.toBe(plain);
});

test('a session reads only what is new', async () => {
  await using session = model.createSession();
  const first = model.generate(prompt, { session, maxTokens: 20 });
  const answer = await first.text();
  const second = model.generate(`${prompt}${answer}\n\ndef `, { session, maxTokens: 20 });
  const text = await second.text();
  expect((await second.result).usage.cachedTokens).toBeGreaterThanOrEqual(800 + 19);
  expect(text).toBe(await model.generate(`${prompt}${answer}\n\ndef `, { maxTokens: 20 }).text());
  // A prompt that departs from what was read starts anew.
  const third = model.generate(sample.slice(200, 700), { session, maxTokens: 5 });
  expect(await third.text()).toBe(await model.generate(sample.slice(200, 700), { maxTokens: 5 }).text());
  expect((await third.result).usage.cachedTokens).toBe(0);
});

test('a session takes one generation at a time', async () => {
  await using session = model.createSession();
  const first = model.generate(prompt, { session, maxTokens: 8 });
  const second = model.generate('x', { session, maxTokens: 8 });
  const texts = await Promise.allSettled([first.text(), second.text()]);
  expect(texts).toMatchObject([{ status: 'fulfilled' }, { status: 'rejected', reason: { code: 'INVALID_ARGUMENT' } }]);
  await expectError(() => second.result, 'INVALID_ARGUMENT', 'in use');
  expect(await model.generate(prompt, { session, maxTokens: 8 }).text()).toBe((await first.result).text);
});

test('a result is told even where the model went away meanwhile', async () => {
  const lost = await loadModel(MODEL_DIR, { device });
  const generation = lost.generate(prompt, { maxTokens: 20 });
  for await (const _ of generation) {
    lost.dispose();
    break;
  }
  await expectError(() => generation.result, 'DISPOSED');
});

test('a checkpoint without a tokenizer works with token ids', async () => {
  const { dir } = await writeRandomCheckpoint(join(root, 'ids'), tinyConfig('llama', { spkv: SPKV, eos_token_id: 47 }));
  using tiny = await loadModel(dir, { device, kvMemory: 1 << 22 });
  const generation = tiny.generate([1, 2, 3], { maxTokens: 5, ignoreEos: true });
  const text = await generation.text();
  expect(text.trim().split(' ').map(Number)).toEqual((await generation.result).ids);
  await expectError(() => tiny.generate('text').text(), 'UNSUPPORTED', 'tokenizer.json');
  await expectError(async () => tiny.encodeChat([{ role: 'user', content: 'hi' }]), 'UNSUPPORTED', 'chat template');
});

test('an end-of-text token ends the generation unless told otherwise', async () => {
  const eos = Array.from({ length: 48 }, (_, id) => id);
  const { dir } = await writeRandomCheckpoint(join(root, 'eos'), tinyConfig('llama', { eos_token_id: eos }));
  using tiny = await loadModel(dir, { device, kvMemory: 1 << 22 });
  const generation = tiny.generate([1, 2, 3], { maxTokens: 5 });
  await generation.text();
  expect(await generation.result).toMatchObject({ finishReason: 'stop', usage: { completionTokens: 1 } });
  expect((await generationOf(tiny, { ignoreEos: true })).usage.completionTokens).toBe(5);
});

async function generationOf(tiny: TextModel, options: object) {
  const generation = tiny.generate([1, 2, 3], { maxTokens: 5, ...options });
  await generation.text();
  return generation.result;
}

test.each<[string, string, () => unknown]>([
  ['a prompt', 'INVALID_ARGUMENT', () => model.generate(7 as never)],
  ['an empty list of ids', 'INVALID_ARGUMENT', () => model.generate([])],
  ['a token id', 'OUT_OF_RANGE', () => model.generate([1, 400]).text()],
  ['too long a prompt', 'OUT_OF_RANGE', () => model.generate(new Array(5000).fill(1))],
  ['maxTokens', 'INVALID_ARGUMENT', () => model.generate('a', { maxTokens: 0 })],
  ['temperature', 'INVALID_ARGUMENT', () => model.generate('a', { temperature: -1 })],
  ['threshold', 'INVALID_ARGUMENT', () => model.generate('a', { threshold: -0.1 })],
  ['stop', 'INVALID_ARGUMENT', () => model.generate('a', { stop: '' })],
  ['ignoreEos', 'INVALID_ARGUMENT', () => model.generate('a', { ignoreEos: 1 as never })],
  ['signal', 'INVALID_ARGUMENT', () => model.generate('a', { signal: 1 as never })],
  ['onPrefill', 'INVALID_ARGUMENT', () => model.generate('a', { onPrefill: 1 as never })],
  ['a misspelt option of a session', 'INVALID_ARGUMENT', () => model.createSession({ treshold: 0.5 } as never)],
  ['a misspelt option', 'INVALID_ARGUMENT', () => model.generate('a', { temprature: 1 } as never)],
])('refuses a bad value: %s', async (_, code, run) => {
  await expect(Promise.resolve().then(run)).rejects.toMatchObject({ code });
});
