// `spkv serve` as users start it, in a process of its own.
import { type ChildProcess, execFile, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { text as textOf } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { addressOf } from '../../bench/load.js';
import { BUNDLED_MODEL, loadModel } from '../../lib/index.js';
import { testDevice } from '../support/device.js';
import { until } from '../support/engine.js';
import { temporaryDirectory } from '../support/files.js';
import { chatModel, sseEvents } from '../support/server.js';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const root = temporaryDirectory();
const children: ChildProcess[] = [];
afterAll(() => {
  for (const child of children) child.kill('SIGKILL');
});

interface Started extends ChildProcess {
  stdout: Readable;
  stderr: Readable;
  /** With its exit code and signal, whenever that is asked for. */
  exited: Promise<unknown[]>;
}

function start(args: readonly string[], env: Record<string, string> = {}): Started {
  const { NODE_OPTIONS: _, ...inherited } = process.env;
  const child = spawn(process.execPath, ['bin/spkv.js', 'serve', '--port', '0', ...args], { cwd: ROOT, env: { ...inherited, ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
  children.push(child);
  return Object.assign(child, { exited: once(child, 'exit') });
}

const post = (url: string, body: object, headers: object = {}) =>
  fetch(url, { method: 'POST', headers: { 'content-type': 'application/json', ...headers }, body: JSON.stringify(body) });
/** Of the bundled model, which the server takes where it is given none. */
const ASK = { model: 'code-6m-spkv', prompt: 'def walk(', temperature: 0, ignore_eos: true, stream: true };
/** So much that it has not ended when something happens to its server. */
const ENDLESS = { max_tokens: 4000, n: 16 };

test('SIGTERM under load: what was promised is written, and the process ends well', async () => {
  const server = start([], { SPKV_API_KEY: 'one,two' });
  const whole = textOf(server.stdout);
  const url = await addressOf(server.stderr);
  expect((await post(`${url}/v1/completions`, ASK)).status).toBe(401);
  const authorization = 'Bearer two';
  const model = await loadModel(BUNDLED_MODEL, { device: testDevice(), kvMemory: 32 << 20 });
  const expected = await model.generate(ASK.prompt, { maxTokens: 500, ignoreEos: true }).text();
  model.dispose();
  // The headers are there as soon as a text has been begun.
  const begun = await Promise.all(Array.from({ length: 6 }, () => post(`${url}/v1/completions`, { ...ASK, max_tokens: 500 }, { authorization })));
  server.kill('SIGTERM');
  const texts = await Promise.all(begun.map(async (response) => sseEvents(await response.text()).map((event) => event.choices[0].text).join('')));
  expect(new Set(texts)).toEqual(new Set([expected]));
  expect(await server.exited).toEqual([0, null]);
  const log = await whole;
  const lines = log.trim().split('\n').map((line) => JSON.parse(line) as Record<string, unknown>);
  expect(lines.filter(({ status, usage }) => status === 200 && (usage as { completion_tokens: number }).completion_tokens === 500)).toHaveLength(6);
  expect(log).not.toMatch(/walk|two/); // neither prompts nor keys
});

/** Where a server listens, by its log. */
async function portOf(stdout: Readable): Promise<number> {
  let log = '';
  for await (const text of stdout.iterator({ destroyOnReturn: false })) {
    log += String(text);
    const port = /http:\/\/127\.0\.0\.1:(\d+)/.exec(log)?.[1];
    if (port) return Number(port);
  }
  throw new Error(`the server has ended: ${log}`);
}

test('constraints are made beside: answers do not wait for one that is expensive', async () => {
  const server = start(['--log-level', 'silent']);
  const url = await addressOf(server.stderr);
  const ask = (fields: object) => post(`${url}/v1/completions`, { ...ASK, stream: false, max_tokens: 40, ...fields });
  const plain = { ignore_eos: false, temperature: 1 };
  // Where answers had to wait they would do so every time. Where the machine stalls, one may seem to.
  let waited = true;
  for (let more = 30; waited; more++) {
    let made = false;
    const expensive = ask({ ...plain, structured_outputs: { regex: `(a|b)*a(a|b){${more}}` } }).finally(() => (made = true));
    expect((await ask({})).status).toBe(200);
    waited = made;
    const refused = await expensive;
    expect({ status: refused.status, ...((await refused.json()) as { error: object }).error }).toMatchObject({ status: 400, code: 'unsupported', message: expect.stringContaining('too large') });
  }
  for (const structured_outputs of [{ regex: '[0-9]{30}' }, { json: { type: 'array', items: { type: 'integer' }, minItems: 2, maxItems: 2 } }]) {
    const answers = await Promise.all([ask({ ...plain, structured_outputs }), ask({ ...plain, structured_outputs })]);
    for (const answer of answers) {
      const { choices } = (await answer.json()) as { choices: [{ text: string; finish_reason: string }] };
      if ('regex' in structured_outputs) expect(choices[0].text).toMatch(/^\d{30}$/);
      else if (choices[0].finish_reason === 'stop') expect(JSON.parse(choices[0].text)).toEqual([expect.any(Number), expect.any(Number)]);
    }
  }
  server.kill('SIGTERM');
  expect(await server.exited).toEqual([0, null]);
});

test('a second signal breaks off', async () => {
  const server = start(['--quiet', '--log-level', 'info', '--name', 'small']);
  const url = `http://127.0.0.1:${await portOf(server.stdout)}`;
  const response = await post(`${url}/v1/completions`, { ...ASK, ...ENDLESS, model: 'small' });
  const answer = response.text();
  server.kill('SIGINT');
  server.kill('SIGTERM');
  expect(await server.exited).toEqual([130, null]);
  expect(sseEvents(await answer).at(-1)).toMatchObject({ error: { code: 'shutting_down' } });
});

test('a long text is turned into tokens beside the others', async () => {
  const model = await chatModel(root, { device: testDevice() });
  const server = start(['--model', model.checkpoint.dir]);
  model.dispose();
  const url = await addressOf(server.stderr);
  const text = 'the hello é €\n'.repeat(10_000);
  const { length: count } = model.encode(text);
  // Were it done between requests, one of them would wait for nearly all of it, every time. Where the machine stalls, one may.
  for (let share = 1; share > 0.5; ) {
    const began = performance.now();
    let [done, longest] = [false, 0];
    const tokenized = post(`${url}/tokenize`, { text }).then((response) => response.json()).finally(() => (done = true));
    while (!done) {
      const asked = performance.now();
      await (await fetch(`${url}/health`)).text();
      longest = Math.max(longest, performance.now() - asked);
    }
    share = longest / (performance.now() - began);
    expect(await tokenized).toMatchObject({ count });
  }
  server.kill('SIGTERM');
  expect(await server.exited).toEqual([0, null]);
});

/** So many hundred requests, each with an id of 64 characters. A pipe has room for the lines of less than a thousand. */
async function ask(url: string, hundreds: number): Promise<void> {
  const get = () => fetch(`${url}/health`, { headers: { 'x-request-id': 'i'.repeat(64) } }).then((response) => response.status);
  for (let i = 0; i < hundreds; i++) expect(new Set(await Promise.all(Array.from({ length: 100 }, get)))).toEqual(new Set([200]));
}

test('a log that nobody reads holds up nobody', async () => {
  const server = start([]);
  const url = await addressOf(server.stderr);
  await ask(url, 15);
  server.kill('SIGTERM');
  // Nor does it hold up the end: the last lines are given up after a while.
  expect(await server.exited).toEqual([0, null]);
});

test('a log that is read late says what it has left out', async () => {
  const server = start([]);
  const url = await addressOf(server.stderr);
  await ask(url, 40);
  let log = '';
  server.stdout.setEncoding('utf8').on('data', (text: string) => (log += text));
  const told = () => {
    const lines = log.split('\n').slice(0, -1).map((line) => JSON.parse(line) as { msg: string });
    const left = lines.reduce((sum, { msg }) => sum + Number(/^(\d+) lines were left out/.exec(msg)?.[1] ?? 0), 0);
    return { answered: lines.filter(({ msg }) => msg === 'answered').length, left };
  };
  await until(() => told().answered + told().left >= 4_000);
  const { answered, left } = told();
  expect(left).toBeGreaterThan(0);
  expect(answered + left).toBe(4_000);
  server.kill('SIGTERM');
  expect(await server.exited).toEqual([0, null]);
});

test('after kill -9, clients know that their answers are not whole, and a new process takes its place at once', async () => {
  const first = start(['--quiet']);
  const port = await portOf(first.stdout);
  const url = `http://127.0.0.1:${port}`;
  const broken = await post(`${url}/v1/completions`, { ...ASK, ...ENDLESS });
  const whole = post(`${url}/v1/completions`, { ...ASK, ...ENDLESS, stream: false });
  whole.catch(() => {});
  first.kill('SIGKILL');
  await first.exited;
  await expect(broken.text()).rejects.toThrow('terminated');
  await expect(whole).rejects.toThrow('fetch failed');
  const second = start(['--quiet', '--port', String(port)]);
  expect(await portOf(second.stdout)).toBe(port);
  const answer = await post(`${url}/v1/completions`, { ...ASK, max_tokens: 5 });
  expect(sseEvents(await answer.text()).at(-1).choices[0].finish_reason).toBe('length');
  second.kill('SIGTERM');
  expect(await second.exited).toEqual([0, null]);
});

// Where there is a curl.
if (spawnSync('curl', ['--version']).status === 0) {
  test('curl, as the README has it', async () => {
    const server = start([]);
    const url = await addressOf(server.stderr);
    const readme = readFileSync(join(ROOT, 'README.md'), 'utf8');
    const [, command] = /^(curl localhost:8000\/v1\/completions [\s\S]*?')\n```/m.exec(readme)!;
    const { stdout } = await promisify(execFile)('sh', ['-c', command!.replace('curl localhost:8000', `curl --silent --fail ${url}`)]);
    const { model, choices, usage } = JSON.parse(stdout) as { model: string; choices: { text: string }[]; usage: { completion_tokens: number } };
    expect({ model, choices }).toMatchObject({ model: ASK.model, choices: [{ text: expect.stringMatching(/./) }] });
    expect(usage.completion_tokens).toBeLessThanOrEqual(60);
    server.kill('SIGTERM');
    expect(await server.exited).toEqual([0, null]);
  });
}

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
