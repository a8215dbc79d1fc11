// What holds for every request: keys, limits, ids, half a request, and what the server tells of itself.
import { connect } from 'node:net';
import { loadModel, type TextModel } from '../../lib/index.js';
import { createServer } from '../../lib/server/server.js';
import { testDevice } from '../support/device.js';
import { expectFree, until } from '../support/engine.js';
import { expectError } from '../support/errors.js';
import { MODEL_DIR, MODEL_NAME } from '../support/golden.js';
import { startServer } from '../support/server.js';

let model: TextModel;
beforeAll(async () => {
  model = await loadModel(MODEL_DIR, { device: testDevice(), kvMemory: 64 << 20 });
});
afterEach(() => expectFree(model));
afterAll(() => model.dispose());

const ASK = { model: MODEL_NAME, prompt: 'def walk(', max_tokens: 3, temperature: 0 };

/** Writes raw bytes and gives what comes back until the server closes the connection. */
function raw(url: string, text: string): Promise<string> {
  const { hostname, port } = new URL(url);
  return new Promise((resolve, reject) => {
    const socket = connect(Number(port), hostname, () => socket.write(text));
    let answer = '';
    socket.setEncoding('utf8').on('data', (part) => (answer += part)).on('error', reject).on('close', () => resolve(answer));
  });
}

test('a key is needed where there are keys, but not to ask for health', async () => {
  await using running = await startServer(model, { apiKeys: ['first-key', 'second-key'] });
  for (const path of ['/v1/models', '/metrics', '/nothing']) {
    for (const authorization of ['', 'Bearer wrong', 'Bearer first-keyx', 'Basic first-key', 'Bearer']) {
      const { status, body } = await running.get(path, { authorization });
      expect({ path, authorization, status, type: body.error.type }).toEqual({ path, authorization, status: 401, type: 'authentication_error' });
    }
  }
  expect((await running.post('/v1/completions', ASK, { authorization: 'Bearer no' })).status).toBe(401);
  for (const key of ['first-key', 'second-key']) expect((await running.get('/v1/models', { authorization: `Bearer ${key}` })).status).toBe(200);
  for (const path of ['/health', '/ready', '/openapi.json']) expect((await running.get(path, { authorization: '' })).status).toBe(200);
});

test('a page of another site cannot use a server that needs no key', async () => {
  await using running = await startServer(model);
  const answer = await raw(running.url, 'GET /v1/models HTTP/1.1\r\nHost: rebound.example\r\nConnection: close\r\n\r\n');
  expect(answer).toMatch(/^HTTP\/1\.1 403 [\s\S]*host_not_allowed/);
  expect((await running.post('/v1/completions', JSON.stringify(ASK), { 'content-type': 'text/plain' })).status).toBe(415);
});

test.each([['0.0.0.0', [], true], ['0.0.0.0', ['key'], false], ['127.0.0.1', [], false]])('at %s with the keys %j: open to everybody: %s', async (host, apiKeys, exposed) => {
  await using server = await createServer(model, { apiKeys });
  expect(server.exposed).toBe(false);
  await server.listen({ host, port: 0 });
  expect(server.exposed).toBe(exposed);
});

test('the model is listed, and described by its name', async () => {
  await using running = await startServer(model, { name: 'small' });
  const card = { id: 'small', object: 'model', owned_by: 'spkv', max_model_len: 4096, threshold: 0.5, window: 128 };
  expect((await running.get('/v1/models')).body).toMatchObject({ object: 'list', data: [card] });
  expect((await running.get('/v1/models/small')).body).toMatchObject(card);
  expect(await running.get('/v1/models/large')).toMatchObject({ status: 404, body: { error: { code: 'model_not_found' } } });
  expect((await running.client.models.list()).data[0]!.id).toBe('small');
});

test('routes and hooks of one\'s own, before it listens', async () => {
  await using server = await createServer(model);
  server.app.get('/mine', async () => ({ mine: true }));
  server.app.addHook('onSend', async (_request, reply) => void reply.header('x-mine', 'yes'));
  const url = await server.listen({ port: 0 });
  expect(await (await fetch(`${url}/mine`)).json()).toEqual({ mine: true });
  expect((await fetch(`${url}/health`)).headers.get('x-mine')).toBe('yes');
});

test('every answer has an id: the client\'s own, if it is a harmless one', async () => {
  await using running = await startServer(model);
  const id = async (given: string) => (await running.get('/health', { 'x-request-id': given })).headers.get('x-request-id');
  expect(await id('mine-1.x_Y')).toBe('mine-1.x_Y');
  for (const given of ['{"a":1}', 'x'.repeat(65), '']) expect(await id(given)).toMatch(/^[0-9a-f-]{36}$/);
});

test('bodies that are too large, no JSON, or of another kind', async () => {
  await using running = await startServer(model, { maxBodyBytes: 1000 });
  expect(await running.post('/v1/completions', { ...ASK, prompt: 'a'.repeat(1000) })).toMatchObject({ status: 413, body: { error: { type: 'invalid_request_error', code: 'body_too_large' } } });
  expect((await running.post('/v1/completions', '{"model":')).status).toBe(400);
  expect((await running.post('/v1/completions', '')).status).toBe(400);
  expect(await running.post('/v1/completions', '[]')).toMatchObject({ status: 400, body: { error: { message: 'Expected an object for the body but received an array of 0' } } });
  expect((await running.post('/v1/completions', '{}', { 'content-type': 'text/csv' })).body.error.message).toContain('Content-Type: application/json');
  expect(await raw(running.url, 'this is not HTTP\r\n\r\n')).toMatch(/^HTTP\/1\.1 400 [\s\S]*invalid_request_error/);
  expect(await running.get('/v1/completions')).toMatchObject({ status: 404, body: { error: { code: 'unknown_url' } } });
});

test('limits on tokens', async () => {
  await using running = await startServer(model, { maxPromptTokens: 20, maxTokens: 5 });
  expect(await running.post('/v1/completions', { ...ASK, prompt: 'a'.repeat(20) })).toMatchObject({ status: 400, body: { error: { param: 'prompt', code: 'context_length_exceeded' } } });
  expect(await running.post('/v1/completions', { ...ASK, max_tokens: 6 })).toMatchObject({ status: 400, body: { error: { param: 'max_tokens' } } });
  const { body } = await running.post('/v1/completions', { ...ASK, max_tokens: undefined });
  expect(body.usage.completion_tokens).toBe(5);
});

test('half a request is given up in time, and holds up nobody', async () => {
  // Time enough for whole ones on a machine that stalls.
  await using running = await startServer(model, { receiveTimeout: 3000 });
  const head = `POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{"model":`;
  const [cut, fine] = await Promise.all([raw(running.url, head), running.post('/v1/completions', ASK)]);
  expect(cut).toMatch(/^HTTP\/1\.1 408 [\s\S]*invalid_request_error/);
  expect(fine.status).toBe(200);
});

test('an answer that takes too long', async () => {
  await using running = await startServer(model, { answerTimeout: 1, engine: { reuse: 'none' } });
  const slow = { ...ASK, max_tokens: 4000, ignore_eos: true };
  expect(await running.post('/v1/completions', slow)).toMatchObject({ status: 504, body: { error: { type: 'server_error', code: 'timeout' } } });
});

test('tokens of texts', async () => {
  await using running = await startServer(model);
  const { body } = await running.post('/tokenize', { text: 'é!' });
  expect(body).toEqual({ tokens: [0, 195, 169, 33], count: 4, max_model_len: 4096 });
  expect((await running.post('/tokenize', { text: 'é!', add_special_tokens: false })).body.tokens).toEqual([195, 169, 33]);
  expect((await running.post('/detokenize', { tokens: body.tokens })).body).toEqual({ text: 'é!' });
  expect((await running.post('/tokenize', { text: 5 })).status).toBe(400);
});

test('metrics count what has happened', async () => {
  await using running = await startServer(model, { engine: { reuse: 'exact' } });
  for (let i = 0; i < 3; i++) await running.post('/v1/completions', { ...ASK, max_tokens: 10, ignore_eos: true });
  await running.post('/v1/completions', {});
  await until(() => running.server.engine.stats().requests.finished === 3);
  const values = async (...names: string[]) => Promise.all(names.map((name) => running.metric(name)));
  expect(await values('spkv_requests_total{outcome="finished"}', 'spkv_tokens_total{kind="written"}', 'spkv_time_to_first_token_seconds_count', 'spkv_time_per_token_seconds_count', 'spkv_prefix_hits_total')).toEqual([3, 30, 3, 3, 2]);
  expect(await values('spkv_http_requests_total{route="/v1/completions",status="200"}', 'spkv_http_requests_total{route="/v1/completions",status="400"}')).toEqual([3, 1]);
  expect(await running.metric('spkv_pool_pages{state="capacity"}')).toBe(model.cache.capacityPages);
  expect(await running.metric('spkv_batch_texts_sum')).toBe(30);
});

test('/openapi.json describes every route and field', async () => {
  await using running = await startServer(model);
  const { body } = await running.get('/openapi.json');
  expect(body.openapi).toBe('3.1.0');
  const routes = ['/v1/completions', '/v1/chat/completions', '/v1/models', '/v1/models/{model}', '/tokenize', '/detokenize', '/health', '/ready', '/metrics', '/stats'];
  expect(Object.keys(body.paths).sort()).toEqual(routes.sort());
  const { properties } = body.paths['/v1/completions'].post.requestBody.content['application/json'].schema;
  expect(properties.threshold).toMatchObject({ minimum: 0, maximum: 2 });
  expect(properties.echo.description).toMatch(/^Not supported/);
});

test('options of the server, one by one', async () => {
  const wrong: [object, RegExp][] = [
    [{ port: 1 }, /"port"/], [{ name: '' }, /name/], [{ apiKeys: ['a b'] }, /apiKeys/], [{ apiKeys: 'abc' }, /apiKeys/], [{ maxPromptTokens: 0 }, /maxPromptTokens/],
    [{ maxTokens: 1.5 }, /maxTokens/], [{ maxBodyBytes: -1 }, /maxBodyBytes/], [{ receiveTimeout: 0 }, /receiveTimeout/], [{ answerTimeout: -1 }, /answerTimeout/],
    [{ drainTimeout: NaN }, /drainTimeout/], [{ engine: { maxSequences: 0 } }, /maxSequences/], [{ engine: { onStep() {} } }, /"onStep"/], [{ logLevel: 'loud' }, /logLevel/],
  ];
  for (const [options, message] of wrong) await expectError(() => createServer(model, options as never), 'INVALID_ARGUMENT', message);
});
