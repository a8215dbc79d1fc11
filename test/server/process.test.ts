// `spkv serve` as users start it, in a process of its own.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { addressOf } from '../../bench/load.js';
import { loadModel } from '../../lib/index.js';
import { testDevice } from '../support/device.js';
import { temporaryDirectory } from '../support/files.js';
import { MODEL_DIR } from '../support/golden.js';
import { chatModel, sseEvents } from '../support/server.js';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const root = temporaryDirectory();
const children: ChildProcess[] = [];
afterAll(() => {
  for (const child of children) child.kill('SIGKILL');
});

function start(args: readonly string[], env: Record<string, string> = {}): ChildProcess & { stdout: NodeJS.ReadableStream; stderr: NodeJS.ReadableStream } {
  const { NODE_OPTIONS: _, ...inherited } = process.env;
  const child = spawn(process.execPath, ['bin/spkv.js', 'serve', '--port', '0', ...args], { cwd: ROOT, env: { ...inherited, ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
  children.push(child);
  return child as ChildProcess & { stdout: NodeJS.ReadableStream; stderr: NodeJS.ReadableStream };
}

const post = (url: string, body: object, headers: object = {}) =>
  fetch(url, { method: 'POST', headers: { 'content-type': 'application/json', ...headers }, body: JSON.stringify(body) });
const ASK = { model: 'code-6m-spkv', prompt: 'def walk(', temperature: 0, ignore_eos: true, stream: true };

test('SIGTERM under load: what was promised is written, and the process ends well', async () => {
  const server = start([], { SPKV_API_KEY: 'one,two' });
  let log = '';
  server.stdout.setEncoding('utf8').on('data', (text: string) => (log += text));
  const url = await addressOf(server.stderr);
  expect((await post(`${url}/v1/completions`, ASK)).status).toBe(401);
  const authorization = 'Bearer two';
  const model = await loadModel(MODEL_DIR, { device: testDevice(), kvMemory: 32 << 20 });
  const expected = await model.generate(ASK.prompt, { maxTokens: 500, ignoreEos: true }).text();
  model.dispose();
  // The headers are there as soon as a text has been begun.
  const begun = await Promise.all(Array.from({ length: 6 }, () => post(`${url}/v1/completions`, { ...ASK, max_tokens: 500 }, { authorization })));
  server.kill('SIGTERM');
  const texts = await Promise.all(begun.map(async (response) => sseEvents(await response.text()).map((event) => event.choices[0].text).join('')));
  expect(new Set(texts)).toEqual(new Set([expected]));
  expect(await once(server, 'exit')).toEqual([0, null]);
  const lines = log.trim().split('\n').map((line) => JSON.parse(line) as Record<string, unknown>);
  expect(lines.filter(({ status, usage }) => status === 200 && (usage as { completion_tokens: number }).completion_tokens === 500)).toHaveLength(6);
  expect(log).not.toMatch(/walk|two/); // neither prompts nor keys
});

test('a second signal breaks off', async () => {
  const server = start(['--quiet', '--log-level', 'info', '--name', 'small']);
  let url: string | undefined;
  for await (const text of server.stdout) if ((url = /http:\/\/127\.0\.0\.1:\d+/.exec(String(text))?.[0])) break;
  const response = await post(`${url}/v1/completions`, { ...ASK, model: 'small', max_tokens: 4000 });
  server.kill('SIGINT');
  server.kill('SIGTERM');
  const [code] = (await once(server, 'exit')) as [number];
  expect(code).toBe(130);
  expect(sseEvents(await response.text()).at(-1)).toMatchObject({ error: { code: 'shutting_down' } });
});

test('a long text is turned into tokens beside the others', async () => {
  const model = await chatModel(root, { device: testDevice() });
  const server = start(['--model', model.checkpoint.dir]);
  model.dispose();
  const url = await addressOf(server.stderr);
  const text = 'the hello é €\n'.repeat(10_000);
  let done = false;
  const tokenized = post(`${url}/tokenize`, { text }).then((response) => response.json() as Promise<{ count: number }>).finally(() => (done = true));
  const waits: number[] = [];
  while (!done) {
    const began = performance.now();
    await (await fetch(`${url}/health`)).text();
    waits.push(performance.now() - began);
  }
  expect((await tokenized).count).toBe(model.encode(text).length);
  // Were it done between requests, one of them would wait for all of it.
  expect(waits.length).toBeGreaterThan(10);
  server.kill('SIGTERM');
  expect(await once(server, 'exit')).toEqual([0, null]);
});

test('without its packages it says what to install', async () => {
  const hooks = `export async function resolve(name, context, next) {
    if (name === 'fastify') throw Object.assign(new Error("Cannot find package 'fastify'"), { code: 'ERR_MODULE_NOT_FOUND' });
    return next(name, context);
  }`;
  const register = `import { register } from 'node:module'; register(${JSON.stringify(`data:text/javascript,${encodeURIComponent(hooks)}`)});`;
  const { NODE_OPTIONS: _, ...inherited } = process.env;
  const child = spawn(process.execPath, ['--import', `data:text/javascript,${encodeURIComponent(register)}`, 'bin/spkv.js', 'serve'], { cwd: ROOT, env: inherited, stdio: ['ignore', 'ignore', 'pipe'] });
  let stderr = '';
  child.stderr.on('data', (text) => (stderr += String(text)));
  const [code] = (await once(child, 'close')) as [number];
  expect(stderr).toMatch(/npm install fastify @fastify\/swagger prom-client/);
  expect(code).toBe(1);
});
