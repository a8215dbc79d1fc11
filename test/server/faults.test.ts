// Clients that vanish or do not read, too much at once, too little memory, and a server that closes: nobody else notices.
import { type IncomingMessage, request } from 'node:http';
import OpenAI from 'openai';
import { type Engine, loadModel, type Request, type TextModel } from '../../lib/index.js';
import { testDevice } from '../support/device.js';
import { begun, expectFree, until } from '../support/engine.js';
import { temporaryDirectory } from '../support/files.js';
import { MODEL_DIR, MODEL_NAME } from '../support/golden.js';
import { chatModel, type Running, sseEvents, startServer } from '../support/server.js';

const device = testDevice();
const root = temporaryDirectory();
let model: TextModel;
beforeAll(async () => {
  model = await loadModel(MODEL_DIR, { device, kvMemory: 64 << 20 });
});
afterEach(() => expectFree(model));
afterAll(() => model.dispose());

const ASK = { model: MODEL_NAME, prompt: 'def walk(', temperature: 0, ignore_eos: true };
const texts = ({ server }: Running) => Object.values(server.engine.stats().texts).reduce((sum, count) => sum + count, 0);
/** Requests that the engine has been given, whatever has become of them; of one text each. */
const given = (running: Running) => {
  const { waiting, finished, failed } = running.server.engine.stats().requests;
  return texts(running) + waiting + finished + failed;
};

/** A text that has been begun and cannot end: its reader, which has taken one token, takes no more. */
async function held(engine: Engine): Promise<Request> {
  const request = engine.generate('a', { maxTokens: 1000, ignoreEos: true });
  await begun(request);
  return request;
}

test.each([true, false])('clients that vanish, streaming: %s', async (stream) => {
  await using running = await startServer(model, { engine: { reuse: 'none', maxSequences: 2 } });
  const controllers = Array.from({ length: 4 }, () => new AbortController());
  const leaving = controllers.map(({ signal }) =>
    fetch(`${running.url}/v1/completions`, { method: 'POST', signal, headers: { 'content-type': 'application/json' }, body: JSON.stringify({ ...ASK, max_tokens: 4000, stream }) })
      .then((response) => response.text())
      .catch((error: Error) => error.name));
  await until(() => given(running) === 4);
  for (const controller of controllers.slice(1)) controller.abort();
  await until(() => running.server.engine.stats().requests.failed === 3);
  // The one that stays has a place now, alone.
  await until(() => texts(running) === 1 && running.server.engine.stats().requests.waiting === 0);
  controllers[0]!.abort();
  expect(new Set(await Promise.all(leaving))).toEqual(new Set(['AbortError']));
  await until(() => running.server.engine.stats().pool.usedPages === 0);
  expect((await model.cache.stats()).usedPages).toBe(0);
  await until(() => running.server.engine.stats().requests.failed === 4);
  expect(await running.metric('spkv_http_requests_total{route="/v1/completions",status="499"}')).toBe(4);
});

test('a reader that stops reading pauses its own texts only, and gets all of them later', async () => {
  // Every event has the name in it: together they are more than the buffers of the system hold.
  const name = 'long'.repeat(2000);
  await using running = await startServer(model, { name, engine: { readAhead: 16, reuse: 'none' } });
  const fields = { ...ASK, model: name, n: 2, max_tokens: 1000, stream: true };
  const response = await new Promise<IncomingMessage>((resolve) => {
    request(`${running.url}/v1/completions`, { method: 'POST', agent: false, headers: { 'content-type': 'application/json' } }, resolve).end(JSON.stringify(fields));
  });
  await until(() => running.server.engine.stats().texts.paused === 2);
  expect((await running.post('/v1/completions', { ...ASK, model: name, max_tokens: 20 })).status).toBe(200);
  // They may have written a little more, where the system takes another part of it.
  await until(() => running.server.engine.stats().texts.paused === 2 && texts(running) === 2);
  let answer = '';
  for await (const part of response.setEncoding('utf8')) answer += part;
  const received = ['', ''];
  for (const { choices: [{ index, text }] } of sseEvents(answer)) received[index] += text;
  const expected = await model.generate(ASK.prompt, { maxTokens: 1000, ignoreEos: true }).text();
  expect(received.map((text) => text === expected)).toEqual([true, true]);
});

test('more than may wait are told to come again', async () => {
  await using running = await startServer(model, { engine: { maxSequences: 1, maxWaiting: 1, readAhead: 16 } });
  const first = await held(running.server.engine);
  const second = running.post('/v1/completions', { ...ASK, max_tokens: 20 });
  await until(() => running.server.engine.stats().requests.waiting === 1);
  const refused = await running.post('/v1/completions', ASK);
  expect(refused.status).toBe(429);
  expect(refused.body.error).toMatchObject({ type: 'rate_limit_error', code: 'overloaded' });
  expect(Number(refused.headers.get('retry-after'))).toBeGreaterThanOrEqual(1);
  const many = running.client.completions.create({ ...ASK, prompt: ['a', 'b', 'c', 'd'] } as OpenAI.CompletionCreateParamsNonStreaming);
  await expect(many).rejects.toBeInstanceOf(OpenAI.RateLimitError);
  first.cancel();
  expect((await second).status).toBe(200);
});

test('a text that is larger than the whole pool is refused, and others are answered', async () => {
  const small = await chatModel(root, { device, pages: 16 });
  await using running = await startServer(small, { name: 'tiny' });
  const ask = { model: 'tiny', temperature: 0, ignore_eos: true, threshold: 0 };
  const asked = [
    { ...ask, prompt: 'a'.repeat(20), max_tokens: 20 },
    { ...ask, prompt: 'a'.repeat(400), max_tokens: 20 },
    { ...ask, prompt: 'b'.repeat(20), max_tokens: 20, stream: true },
    { ...ask, prompt: 'a'.repeat(100), max_tokens: 400, stream: true },
  ];
  const [first, large, second, growing] = await Promise.all(asked.map((fields) => running.post('/v1/completions', fields)));
  expect(large).toMatchObject({ status: 400, body: { error: { type: 'invalid_request_error', code: 'context_length_exceeded' } } });
  const alone = (prompt: string) => small.generate(prompt, { maxTokens: 20, threshold: 0, ignoreEos: true }).text();
  expect(sseEvents(growing!.body).at(-1)).toMatchObject({ error: { code: 'context_length_exceeded' } });
  await running.server.close();
  expect(first!.body.choices[0].text).toBe(await alone('a'.repeat(20)));
  expect(sseEvents(second!.body).map((event) => event.choices[0].text).join('')).toBe(await alone('b'.repeat(20)));
  await expectFree(small);
  small.dispose();
});

test('a request that is poison to the model fails alone, and without the server\'s secrets', async () => {
  const poison = 100;
  const poisoned = await chatModel(root, { device, poison });
  await using running = await startServer(poisoned, { name: 'tiny' });
  const ask = { model: 'tiny', temperature: 0, max_tokens: 10, ignore_eos: true };
  const [good, bad, badStream] = await Promise.all([
    running.post('/v1/completions', { ...ask, prompt: [1, 2, 3] }),
    running.post('/v1/completions', { ...ask, prompt: [1, poison, 3] }),
    running.post('/v1/completions', { ...ask, prompt: [1, 2, 3, poison], stream: true }),
  ]);
  for (const { status, body, headers } of [bad, badStream]) {
    expect({ status, type: body.error.type, code: body.error.code }).toEqual({ status: 500, type: 'server_error', code: null });
    expect(body.error.message).not.toMatch(/layer|finite|\//i);
    expect(headers.get('x-request-id')).toMatch(/./);
  }
  expect(good.status).toBe(200);
  await running.server.close();
  expect(good.body.choices[0].text).toBe(await poisoned.generate([1, 2, 3], { maxTokens: 10, ignoreEos: true }).text());
  poisoned.dispose();
});

test('a server that closes writes what it has begun, and takes no more', async () => {
  const running = await startServer(model, { engine: { readAhead: 16 } });
  // As long as it has not ended the server does not either.
  const last = await held(running.server.engine);
  const streaming = running.post('/v1/completions', { ...ASK, max_tokens: 400, stream: true });
  const whole = running.post('/v1/completions', { ...ASK, max_tokens: 400 });
  await until(() => given(running) === 3);
  const closed = running.server.close();
  expect(await running.get('/ready')).toMatchObject({ status: 503, body: { status: 'closing' } });
  expect((await running.get('/health')).status).toBe(200);
  const late = await running.post('/v1/completions', ASK);
  expect(late).toMatchObject({ status: 503, body: { error: { type: 'server_error', code: 'shutting_down' } } });
  expect(late.headers.get('retry-after')).toMatch(/^\d+$/);
  const expected = await model.generate(ASK.prompt, { maxTokens: 400, ignoreEos: true }).text();
  expect(sseEvents((await streaming).body).map((event) => event.choices[0].text).join('')).toBe(expected);
  expect((await whole).body.choices[0].text).toBe(expected);
  last.cancel();
  await closed;
  await expect(running.get('/health')).rejects.toThrow('fetch failed');
});

test('a server that closes does not wait for ever for a reader that has stalled', async () => {
  const name = 'long'.repeat(2000);
  const running = await startServer(model, { name, drainTimeout: 50, engine: { readAhead: 16, reuse: 'none' } });
  const stalled = await new Promise<IncomingMessage>((resolve) => {
    request(`${running.url}/v1/completions`, { method: 'POST', agent: false, headers: { 'content-type': 'application/json' } }, resolve).end(JSON.stringify({ ...ASK, model: name, max_tokens: 2000, stream: true }));
  });
  stalled.on('error', () => {}); // its connection is closed
  await until(() => running.server.engine.stats().texts.paused === 1);
  await running.server.close();
  expect(running.server.engine.stats().requests).toMatchObject({ finished: 0, failed: 1 });
  stalled.destroy();
});

test('a server that has waited long enough breaks off', async () => {
  const running = await startServer(model, { drainTimeout: 20 });
  // The headers are there as soon as a text has been begun.
  const response = await fetch(`${running.url}/v1/completions`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ ...ASK, max_tokens: 4000, stream: true }) });
  await running.server.close();
  expect(sseEvents(await response.text()).at(-1)).toMatchObject({ error: { type: 'server_error', code: 'shutting_down' } });
});
