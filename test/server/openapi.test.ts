// What the server answers is what its document says.
import Ajv, { type ValidateFunction } from 'ajv';
import { loadModel, type TextModel } from '../../lib/index.js';
import { testDevice } from '../support/device.js';
import { expectFree } from '../support/engine.js';
import { temporaryDirectory } from '../support/files.js';
import { MODEL_DIR } from '../support/golden.js';
import { chatModel, type Running, sseEvents, startServer } from '../support/server.js';

const device = testDevice();
const root = temporaryDirectory();
let model: TextModel;
let chat: TextModel;
let servers: Record<'text' | 'chat', Running>;
let document: any;
beforeAll(async () => {
  model = await loadModel(MODEL_DIR, { device, kvMemory: 64 << 20 });
  chat = await chatModel(root, { device });
  servers = { text: await startServer(model, { name: 'tiny' }), chat: await startServer(chat, { name: 'tiny' }) };
  ({ body: document } = await servers.text.get('/openapi.json'));
});
afterAll(async () => {
  for (const { server } of Object.values(servers)) await server.close();
  for (const each of [model, chat]) {
    await expectFree(each);
    each.dispose();
  }
});

/** Every object has the fields that are documented, and no others. */
function closed(schema: any): any {
  if (Array.isArray(schema)) return schema.map(closed);
  if (schema === null || typeof schema !== 'object') return schema;
  const inner = Object.fromEntries(Object.entries(schema).map(([name, value]) => [name, closed(value)]));
  return schema.type === 'object' && schema.additionalProperties === undefined ? { ...inner, additionalProperties: false } : inner;
}

function validator(method: string, path: string, status: string, kind = 'application/json'): ValidateFunction {
  const { schema } = document.paths[path][method].responses[status].content[kind];
  return new Ajv.default({ strict: false }).compile(closed(schema));
}

function expectValid(validate: ValidateFunction, value: unknown): void {
  validate(value);
  expect(validate.errors).toBeNull();
}

const ASK = { model: 'tiny', max_tokens: 6, temperature: 0, ignore_eos: true };
const CHAT = { ...ASK, messages: [{ role: 'user', content: 'hello' }] };
const ALL = { n: 2, report: 'tokens' };

test('every route has its answers', () => {
  const routes = Object.entries<Record<string, any>>(document.paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, route]) => ({ path, method, route })));
  expect(routes.length).toBeGreaterThanOrEqual(10);
  for (const { path, method, route } of routes) {
    expect({ path, method, statuses: Object.keys(route.responses) }).toMatchObject({ statuses: expect.arrayContaining(['200', '4XX', '5XX']) });
    expect(route.summary).toMatch(/./);
  }
});

test.each([
  ['get', '/v1/models', undefined], ['get', '/v1/models/{model}', undefined], ['get', '/health', undefined], ['get', '/ready', undefined], ['get', '/stats', undefined],
  ['post', '/tokenize', { text: 'the é' }], ['post', '/detokenize', { tokens: [1, 2, 3] }],
  ['post', '/v1/completions', { ...ASK, prompt: 'the' }], ['post', '/v1/completions', { ...ASK, ...ALL, prompt: ['the', 'hello'], logprobs: 2 }],
  ['post', '/v1/completions', { ...ASK, prompt: 'the', logprobs: 0 }], ['post', '/v1/chat/completions', CHAT],
  ['post', '/v1/chat/completions', { ...CHAT, ...ALL, logprobs: true, top_logprobs: 2 }],
])('%s %s answers as documented', async (method, path, body) => {
  const server = path.includes('chat') ? servers.chat : servers.text;
  const url = path.replace('{model}', 'tiny');
  const answer = method === 'get' ? await server.get(url) : await server.post(url, body);
  expect(answer.status).toBe(200);
  expectValid(validator(method, path, '200'), answer.body);
});

test.each([
  ['/v1/completions', { ...ASK, prompt: 'the' }], ['/v1/completions', { ...ASK, ...ALL, prompt: 'the', logprobs: 1 }],
  ['/v1/chat/completions', CHAT], ['/v1/chat/completions', { ...CHAT, ...ALL, logprobs: true, top_logprobs: 1 }],
])('%s streams as documented', async (path, body) => {
  const server = path.includes('chat') ? servers.chat : servers.text;
  const validate = validator('post', path, '200', 'text/event-stream');
  const events = sseEvents((await server.post(path, { ...body, stream: true, stream_options: { include_usage: true } })).body);
  expect(events.length).toBeGreaterThan(1); // what waits for its reader comes together
  for (const event of events) expectValid(validate, event);
});

test.each([
  ['/v1/completions', {}], ['/v1/completions', { ...ASK, prompt: 'the', echo: true }], ['/v1/chat/completions', { ...CHAT, model: 'no' }], ['/tokenize', { text: 1 }],
])('%s refuses as documented', async (path, body) => {
  const answer = await servers.text.post(path, body);
  expect([400, 404]).toContain(answer.status);
  expectValid(validator('post', path, '4XX'), answer.body);
});
