// Requests that end otherwise than well, and engines that close.
import { Engine, type Request, type RequestOptions, type SpkvError, type TextModel } from '../../lib/index.js';
import { random, testDevice } from '../support/device.js';
import { alone, begun, expectFree, tinyModel, until } from '../support/engine.js';
import { expectError } from '../support/errors.js';
import { temporaryDirectory } from '../support/files.js';

const device = testDevice();
const root = temporaryDirectory();
let model: TextModel;
beforeAll(async () => {
  model = await tinyModel(root, { device, pages: 200 });
});
afterAll(() => model.dispose());
afterEach(() => expectFree(model));

const uniform = random(1);
const tokens = (count: number) => Array.from({ length: count }, () => 1 + Math.floor(uniform() * 45));
const LONG: RequestOptions = { maxTokens: 200, ignoreEos: true };

const idsOf = async (request: Request) => (await request.result).choices.map((choice) => choice.tokens.map(({ id }) => id));

test('a signal ends a request with its reason and frees its memory before the next step', async () => {
  const controller = new AbortController();
  const reason = new Error('enough');
  const steps: { written: number; usedPages: number }[] = [];
  await using engine = new Engine(model, {
    reuse: 'none',
    onStep({ written }) {
      steps.push({ written, usedPages: engine.stats().pool.usedPages });
      if (steps.length === 10) controller.abort(reason);
      if (steps.length === 12) other.cancel();
    },
  });
  const other = engine.generate(tokens(20), LONG);
  const request = engine.generate(tokens(20), { ...LONG, signal: controller.signal });
  const reading = (async () => {
    for await (const _ of request);
  })();
  await expect(reading).rejects.toBe(reason);
  await expect(request.result).rejects.toBe(reason);
  await expectError(() => other.result, 'ABORTED', 'cancelled');
  expect(steps.slice(9, 11).map(({ written }) => written)).toEqual([2, 1]);
  expect(steps[10]!.usedPages).toBeLessThan(steps[9]!.usedPages);
  await expect(engine.generate([1], { signal: AbortSignal.abort(reason) }).text()).rejects.toBe(reason);
});

test('a deadline ends a request, running or waiting', async () => {
  // Every step takes longer than both have.
  const onStep = () => {
    const end = performance.now() + 20;
    while (performance.now() < end);
  };
  await using engine = new Engine(model, { maxSequences: 1, onStep });
  const running = engine.generate(tokens(20), { ...LONG, deadline: 10 });
  const waiting = engine.generate(tokens(20), { ...LONG, deadline: 5 });
  await expectError(() => waiting.result, 'DEADLINE', '5');
  await expectError(() => running.result, 'DEADLINE', '10');
  const fine = engine.generate(tokens(20), { maxTokens: 3, ignoreEos: true, deadline: 30_000 });
  expect((await fine.result).choices[0]!.tokens).toHaveLength(3);
});

test('a deadline comes true when nothing else happens', async () => {
  await using engine = new Engine(model, { readAhead: 1 });
  const request = engine.generate(tokens(5), { ...LONG, deadline: 200 });
  // Its reader takes one token, so that it cannot end; on a machine that stalls, not even that.
  begun(request).catch(() => {});
  await expectError(() => request.result, 'DEADLINE');
});

test('a slow reader pauses its own request only, and gets the whole text', async () => {
  await using engine = new Engine(model, { readAhead: 4, maxSequences: 2 });
  const [prompt, other] = [tokens(10), tokens(12)];
  const expected = (await alone(model, prompt, { maxTokens: 60, ignoreEos: true }))[0];
  const slow = engine.generate(prompt, { maxTokens: 60, ignoreEos: true });
  const events = slow[Symbol.asyncIterator]();
  const read = [await events.next()];
  await engine.generate(other, { maxTokens: 60, ignoreEos: true }).result;
  expect(engine.stats().texts).toEqual({ reading: 0, writing: 0, paused: 1 });
  let written = 0;
  for (let event = await events.next(); !event.done; event = await events.next()) {
    read.push(event);
    written = event.value.tokens.length;
    expect(written).toBeLessThanOrEqual(4);
    await new Promise((resolve) => setTimeout(resolve, read.length < 4 ? 5 : 0));
  }
  expect(read.flatMap(({ value }) => value!.tokens.map(({ id }) => id))).toEqual(expected);
  expect(read.map(({ value }) => value!.text).join('')).toBe((await slow.result).choices[0]!.text);
});

test('a poisoned request fails alone, whether its pairs or its logits are not finite', async () => {
  const poison = 46;
  const poisoned = await tinyModel(root, { device }, {}, 3, poison);
  const prompts = [tokens(40), tokens(50), tokens(3)];
  const options = { maxTokens: 15, ignoreEos: true };
  const expected: number[][][] = [];
  for (const prompt of prompts) expected.push(await alone(poisoned, prompt, options));
  expect(expected.flat(2)).not.toContain(poison);
  const engine = new Engine(poisoned);
  const good = prompts.map((prompt) => engine.generate(prompt, options));
  // In a piece of a prompt; as the first token that is read by itself; and penalties that make a logit infinite, with
  // which only the drawing fails.
  const bad = [
    engine.generate([...tokens(20), poison, ...tokens(20)], options), engine.generate([...tokens(20), poison], options),
    engine.generate(tokens(30), { ...options, repetitionPenalty: 3e38 }),
  ];
  for (const { result } of bad) await expectError(() => result, 'NON_FINITE');
  expect(await Promise.all(good.map(idsOf))).toEqual(expected);
  await engine.close();
  await expectFree(poisoned);
  poisoned.dispose();
});

test('a request that is larger than the whole pool fails, and others go on', async () => {
  const small = await tinyModel(root, { device, pages: 12 });
  const engine = new Engine(small, { maxSequences: 4 });
  const prompts = [tokens(10), tokens(200), tokens(12)];
  const requests = prompts.map((prompt) => engine.generate(prompt, { maxTokens: 20, threshold: 0, ignoreEos: true }));
  await expectError(() => requests[1]!.result, 'POOL_EXHAUSTED');
  for (const i of [0, 2]) expect(await idsOf(requests[i]!)).toEqual(await alone(model, prompts[i]!, { maxTokens: 20, threshold: 0, ignoreEos: true }));
  await engine.close();
  await expectFree(small);
  small.dispose();
});

test('too many that wait are refused', async () => {
  await using engine = new Engine(model, { maxSequences: 1, maxWaiting: 2, reuse: 'none' });
  const accepted = Array.from({ length: 3 }, () => engine.generate(tokens(5), { maxTokens: 5 }));
  let refused = 0;
  for (let i = 0; i < 3; i++) {
    try {
      accepted.push(engine.generate(tokens(5), { maxTokens: 5 }));
    } catch (error) {
      expect(error).toMatchObject({ code: 'OVERLOADED' });
      refused++;
    }
  }
  expect(refused).toBeGreaterThan(0);
  expect(engine.stats().requests.refused).toBe(refused);
  await Promise.all(accepted.map(({ result }) => result));
  expect(engine.stats().requests).toMatchObject({ waiting: 0, finished: accepted.length, failed: 0 });
});

test('closing waits for what is there, and with abort ends it', async () => {
  const patient = new Engine(model);
  const request = patient.generate(tokens(40), { maxTokens: 30, ignoreEos: true });
  const closed = patient.close();
  await expectError(() => patient.generate([1]), 'DISPOSED', 'closed');
  expect((await request.result).choices[0]!.tokens).toHaveLength(30);
  await closed;
  const hasty = new Engine(model, { maxSequences: 1 });
  const requests = [hasty.generate(tokens(40), LONG), hasty.generate(tokens(40), LONG)];
  await begun(requests[0]!);
  await hasty.close({ abort: true });
  for (const { result } of requests) await expectError(() => result, 'ABORTED', 'closing');
  await hasty.close();
});

test('a closing engine gives up a reader that takes nothing, and waits for one that does', async () => {
  const engine = new Engine(model, { readAhead: 4 });
  const [stalled, slow] = [engine.generate(tokens(10), LONG), engine.generate(tokens(12), LONG)].map((request) => ({ request, events: request[Symbol.asyncIterator]() }));
  await Promise.all([stalled!.events.next(), slow!.events.next()]);
  await until(() => engine.stats().texts.paused === 2);
  const closed = engine.close({ readerTimeout: 2000 });
  let written = 0;
  for (let event = await slow!.events.next(); !event.done; event = await slow!.events.next()) written += event.value.tokens.length;
  await closed;
  expect((await slow!.request.result).choices[0]!.tokens).toHaveLength(200);
  expect(written).toBe(199);
  await expectError(() => stalled!.request.result, 'DEADLINE', 'closing');
  // What there was comes first, then the error.
  expect((await stalled!.events.next()).value).toMatchObject({ tokens: expect.any(Array) });
  await expectError(() => stalled!.events.next(), 'DEADLINE', 'reader');
});

test.each(['throw', 'reject'])('hooks that %s are reported once each, and harm nobody', async (way) => {
  const warnings: string[] = [];
  const { emitWarning } = process;
  process.emitWarning = (warning: string | Error) => void warnings.push(String(warning));
  try {
    const fail = () => {
      if (way === 'throw') throw new Error('not well');
      return Promise.reject(new Error('not well'));
    };
    await using engine = new Engine(model, { onStep: fail, onRequest: fail });
    for (let i = 0; i < 2; i++) expect((await engine.generate(tokens(40), { maxTokens: 5, ignoreEos: true }).result).choices[0]!.tokens).toHaveLength(5);
    expect(() => engine.generate(tokens(5)).cancel()).not.toThrow();
    await until(() => warnings.length >= 2);
  } finally {
    process.emitWarning = emitWarning;
  }
  expect(warnings.sort()).toEqual(['onRequest', 'onStep'].map((name) => `${name} has failed, and spkv goes on: not well`));
});

test('tells of every step and every request', async () => {
  const steps: { read: number; written: number }[] = [];
  const outcomes: unknown[] = [];
  await using engine = new Engine(model, { onStep: (step) => steps.push(step), onRequest: (record) => outcomes.push(record) });
  await engine.generate(tokens(50), { maxTokens: 6, ignoreEos: true, client: 'me' }).result;
  expect(steps.reduce((sum, { read }) => sum + read, 0)).toBe(49);
  expect(steps.reduce((sum, { written }) => sum + written, 0)).toBe(6);
  expect(outcomes).toEqual([expect.objectContaining({ outcome: 'finished', promptTokens: 50, completionTokens: 6, client: 'me' })]);
  const { latency, tokens: counts, density } = engine.stats();
  expect(counts).toMatchObject({ read: 49, written: 6 });
  expect(latency).toMatchObject({ firstTokens: 1, laterTokens: 5 });
  expect(latency.firstToken).toBeGreaterThan(0);
  expect(density).toBeLessThanOrEqual(1);
});

test.each<[string, string, (engine: Engine) => unknown]>([
  ['an option of the engine', 'INVALID_ARGUMENT', () => new Engine(model, { maxSequence: 1 } as never)],
  ['stepTokens', 'INVALID_ARGUMENT', () => new Engine(model, { stepTokens: 8 })],
  ['reuse', 'INVALID_ARGUMENT', () => new Engine(model, { reuse: 'all' as never })],
  ['onStep', 'INVALID_ARGUMENT', () => new Engine(model, { onStep: 1 as never })],
  ['an option of a request', 'INVALID_ARGUMENT', (engine) => engine.generate([1], { maxToken: 1 } as never)],
  ['a token id', 'OUT_OF_RANGE', (engine) => engine.generate([1, 48])],
  ['n', 'INVALID_ARGUMENT', (engine) => engine.generate([1], { n: 33 })],
  ['kept', 'INVALID_ARGUMENT', (engine) => engine.generate([1], { kept: 1 as never })],
  ['readerTimeout', 'INVALID_ARGUMENT', (engine) => engine.close({ readerTimeout: -1 })],
  ['logprobs', 'INVALID_ARGUMENT', (engine) => engine.generate([1], { logprobs: 65 })],
  ['priority', 'INVALID_ARGUMENT', (engine) => engine.generate([1], { priority: 0.5 })],
  ['client', 'INVALID_ARGUMENT', (engine) => engine.generate([1], { client: 1 as never })],
  ['deadline', 'INVALID_ARGUMENT', (engine) => engine.generate([1], { deadline: -1 })],
  ['signal', 'INVALID_ARGUMENT', (engine) => engine.generate([1], { signal: {} as never })],
  ['temperature', 'INVALID_ARGUMENT', (engine) => engine.generate([1], { temperature: -1 })],
])('refuses a bad value: %s', async (_, code, run) => {
  await using engine = new Engine(model);
  await expectError(async () => run(engine), code as SpkvError['code']);
});
