// The files of the page, as a browser gets them. What it does with them is tested in test/browser.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { Answer } from '../../page/answer.js';
import { loadModel, type TextModel } from '../../lib/index.js';
import { testDevice } from '../support/device.js';
import { MODEL_DIR } from '../support/golden.js';
import { type Running, startServer } from '../support/server.js';

let model: TextModel;
let running: Running;
beforeAll(async () => {
  model = await loadModel(MODEL_DIR, { device: testDevice(), kvMemory: 16 << 20 });
  running = await startServer(model, { apiKeys: ['secret'] });
});
afterAll(async () => {
  await running.server.close();
  model.dispose();
});

const get = (path: string) => running.get(path, { authorization: '' });

test('every file that the page names is there, without a key, and nothing else of the folder', async () => {
  const { body, headers } = await get('/');
  expect(headers.get('content-type')).toBe('text/html; charset=utf-8');
  const wanted = [...(body as string).matchAll(/(?:src|href)="(\/page\/[^"]+)"/g)].map(([, path]) => path!);
  for (const path of wanted) {
    const { status, body: text } = await get(path);
    expect({ path, status }).toEqual({ path, status: 200 });
    for (const [, name] of path.endsWith('.js') ? (text as string).matchAll(/from '\.\/([^']+)'/g) : []) if (!wanted.includes(`/page/${name}`)) wanted.push(`/page/${name}`);
  }
  const files = readdirSync('page').filter((name) => name !== 'index.html').map((name) => `/page/${name}`);
  expect([...new Set(wanted)].sort()).toEqual([...files, '/page/heat.css'].sort());
  expect((await get('/page/example.txt')).body).toBe(readFileSync('models/sample.py', 'utf8'));
  for (const path of ['/page/', '/page/index.html', '/page/../package.json', '/page/%2e%2e/package.json', '/page/nothing.js']) expect((await get(path)).status).toBe(401);
  expect(existsSync('page/index.html')).toBe(true);
});

test('nothing but the server\'s own files may run', async () => {
  for (const path of ['/', '/page/main.js', '/page/heat.css']) {
    const { headers } = await get(path);
    const policy = headers.get('content-security-policy')!;
    expect(policy).toMatch(/^default-src 'none'; /);
    expect(policy).toContain("require-trusted-types-for 'script'");
    expect(policy).not.toMatch(/unsafe|https?:|\*|data:/);
    expect(headers.get('x-content-type-options')).toBe('nosniff');
  }
  for (const name of readdirSync('page')) {
    const text = readFileSync(`page/${name}`, 'utf8').replaceAll('http://www.w3.org/2000/svg', '');
    expect({ name, found: /https?:\/\/|innerHTML|insertAdjacentHTML|document\.write|\beval\b|localStorage|sessionStorage|style="|\son\w+="/.exec(text)?.[0] }).toEqual({ name, found: undefined });
  }
});

test('numbers can be read on every shade', async () => {
  const { body } = await get('/page/heat.css');
  const shades = [...(body as string).matchAll(/\.heat-(\d+) \{ --heat: rgb\((\d+) (\d+) (\d+)\); --heat-ink: #(000|fff); \}/g)];
  expect(shades.map(([, number]) => Number(number))).toEqual(Array.from({ length: 21 }, (_, i) => i));
  for (const [, , red, green, blue, ink] of shades) {
    const [r, g, b] = [red, green, blue].map((value) => ((Number(value) / 255 + 0.055) / 1.055) ** 2.4) as [number, number, number];
    const light = 0.2126 * r + 0.7152 * g + 0.0722 * b;
    // WCAG's AA asks for 4.5 to 1. (The formula for the darkest values is another, of less.)
    expect(ink === '000' ? (light + 0.05) / 0.05 : 1.05 / (light + 0.05)).toBeGreaterThan(4.5);
  }
});

test('the page counts as the cache does', () => {
  const answer = new Answer({ layers: 2, heads: 3, window: 2 });
  expect(answer.density).toBeNaN();
  answer.read([{ special: '<s>', heads: 'fc' }, { text: 'é', heads: '84' }]);
  // All in the window: what will be kept.
  expect([0, 1, 5].map((list) => answer.share(list))).toEqual([1, 0.5, 1]);
  expect(answer.pairs).toEqual({ held: 12, dense: 12 });
  answer.read([{ text: '', heads: '00', written: true }, { text: '€', heads: '08', written: true }]);
  expect(answer.left).toBe(2);
  expect(answer.density).toBeCloseTo(8 / 12);
  expect(answer.pairs).toEqual({ held: 8 + 12, dense: 24 });
  expect([answer.keptBy(1, undefined), answer.keptBy(1, 0), answer.keptBy(1, 1)]).toEqual([2 / 6, 1, 0]);
  answer.text = '€ and';
  expect(answer.tail).toBe(' and');
});
