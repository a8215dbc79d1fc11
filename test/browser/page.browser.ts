// The page at / in a real browser.
import { Readable } from 'node:stream';
import type { Browser } from 'playwright-core';
import { loadModel, type TextModel } from '../../lib/index.js';
import { createServer } from '../../lib/server/server.js';
import { testDevice } from '../support/device.js';
import { until } from '../support/engine.js';
import { temporaryDirectory } from '../support/files.js';
import { MODEL_DIR, MODEL_NAME } from '../support/golden.js';
import { chatModel, type Running, startServer } from '../support/server.js';
import { asked, openBrowser, openPage, shownShares, shownText } from './browser.js';

const device = testDevice();
const root = temporaryDirectory();
let browser: Browser;
let model: TextModel;
let running: Running;
beforeAll(async () => {
  browser = await openBrowser();
  model = await loadModel(MODEL_DIR, { device, kvMemory: 64 << 20 });
  running = await startServer(model);
});
afterAll(async () => {
  await browser.close();
  await running.server.close({ abort: true });
  model.dispose();
});

async function* slowly(parts: AsyncIterable<unknown>): AsyncGenerator<unknown, void, void> {
  for await (const part of parts) {
    await new Promise((resolve) => setTimeout(resolve, 30));
    yield part;
  }
}

// Longer than the window.
const PROMPT = `import os\n\n${'def walk(path):\n    return os.walk(path)\n\n'.repeat(6)}def main(`;
/** As the page rounds. */
const percent = (share: number) => `${Math.round(100 * share) === 100 && share < 1 ? 99 : Math.round(100 * share) === 0 && share > 0 ? 1 : Math.round(100 * share)} %`;

test('the text streams in, its heat map grows with it, and both end as the API has them', async () => {
  await using server = await createServer(model, { engine: { readAhead: 16 } });
  const drawn: string[] = [];
  // At times the stream waits until the page has drawn all that it was sent.
  async function* waiting(parts: AsyncIterable<unknown>): AsyncGenerator<unknown, void, void> {
    const stops = [50, 200, 400];
    let sent = 0;
    for await (const part of parts) {
      yield part;
      sent += String(part).split('"written":true').length - 1;
      if (!(sent >= stops[0]!)) continue;
      stops.shift();
      await page.locator('#text .written').nth(sent - 1).waitFor({ state: 'attached' });
      drawn.push((await shownShares(page)).join());
    }
  }
  server.app.addHook('onSend', async (_request, _reply, payload) => (payload instanceof Readable ? Readable.from(waiting(payload), { objectMode: false }) : payload));
  const url = await server.listen({ port: 0 });
  const watched = await openPage(browser, url);
  const { page, problems, requests } = watched;
  await page.getByRole('textbox', { name: 'Prompt' }).fill(PROMPT);
  await page.getByLabel('Most tokens').fill('600');
  await page.getByRole('button', { name: 'Write' }).click();
  await page.getByText(/^Done: 600 tokens, \d+ % kept$/).waitFor();
  const { body } = await running.post('/v1/completions', { model: MODEL_NAME, prompt: PROMPT, max_tokens: 600, temperature: 0, report: 'tokens' });
  const [cache] = body.usage.cache as { densities: number[][]; density: number; length: number }[];
  expect(await shownText(page)).toBe(`${body.choices[0].kept[0].special}${PROMPT}${body.choices[0].text}`);
  expect(await shownShares(page)).toEqual(cache!.densities.flat().map(percent));
  expect(await page.locator('#kept strong').textContent()).toBe(percent(cache!.density));
  // The grid has been drawn on the way, too.
  expect(new Set(drawn).size).toBe(3);
  expect(await page.locator('#text span[class*=heat]').count()).toBe(cache!.length);
  // What was written stands out, and what is gone fades.
  expect(await page.locator('#text .written').count()).toBe(599);
  const gone = (body.choices[0].kept as { heads: string }[]).slice(0, -model.cache.window).filter(({ heads }) => /^0+$/.test(heads)).length;
  expect(await page.locator('#text .gone').count()).toBe(gone);
  expect(asked(watched)).toMatchObject({ prompt: PROMPT, threshold: 0.5, report: 'tokens' });
  expect(problems).toEqual([]);
  expect(requests.map((request) => new URL(request.url()).origin).filter((origin) => origin !== url)).toEqual([]);
  await page.context().close();
});

test('the threshold is chosen with the keyboard, and the grid shows what came of it', async () => {
  const watched = await openPage(browser, running.url);
  const { page } = watched;
  const slider = page.getByRole('slider', { name: /Threshold/ });
  await slider.focus();
  await page.keyboard.press('Home');
  expect(await page.locator('#threshold-value').textContent()).toBe('0.00');
  await page.getByLabel('Most tokens').fill('5');
  await page.getByRole('textbox', { name: 'Prompt' }).fill(PROMPT);
  await page.keyboard.press('Control+Enter');
  await page.getByText(/^Done: 5 tokens, 100 % kept$/).waitFor();
  expect(asked(watched).threshold).toBe(0);
  expect(new Set(await shownShares(page))).toEqual(new Set(['100 %']));
  await slider.focus();
  await page.keyboard.press('End');
  await page.keyboard.press('Control+Enter');
  await page.getByText(/^Done: 5 tokens, 0 % kept$/).waitFor();
  expect(new Set(await shownShares(page))).toEqual(new Set(['0 %']));
  await page.context().close();
});

test.each(['button', 'Escape'])('an answer is stopped: %s', async (way) => {
  await using server = await createServer(model);
  // So slow that it would take minutes.
  server.app.addHook('onSend', async (_request, _reply, payload) => (payload instanceof Readable ? Readable.from(slowly(payload), { objectMode: false }) : payload));
  const { page, problems } = await openPage(browser, await server.listen({ port: 0 }));
  await page.getByRole('textbox', { name: 'Prompt' }).fill('def walk(');
  await page.getByLabel('Most tokens').fill('4000');
  await page.getByRole('button', { name: 'Write' }).click();
  await page.locator('#text .written').nth(20).waitFor();
  if (way === 'button') await page.getByRole('button', { name: 'Stop' }).click();
  else await page.keyboard.press('Escape');
  await page.getByText('Stopped').waitFor();
  await until(() => Object.values(server.engine.stats().texts).every((count) => count === 0));
  expect(await page.getByRole('alert').isVisible()).toBe(false);
  expect(await page.getByRole('button', { name: 'Write' }).isEnabled()).toBe(true);
  expect(problems).toEqual([]);
  await page.context().close();
});

test('tokens and heads are looked at with the keyboard', async () => {
  const { page } = await openPage(browser, running.url);
  await page.getByRole('textbox', { name: 'Prompt' }).fill(PROMPT);
  await page.getByLabel('Most tokens').fill('3');
  await page.keyboard.press('Control+Enter');
  await page.getByText(/^Done/).waitFor();
  await page.getByRole('group', { name: 'What the model reads and writes' }).focus();
  for (const key of ['Home', 'ArrowRight', 'ArrowRight']) await page.keyboard.press(key);
  const told = await page.locator('#token').textContent();
  const [, held] = /^"m": kept by (\d+) of 16 heads$/.exec(told!)!;
  expect(await page.locator('.heat-grid .keeps').count()).toBe(Number(held));
  await page.keyboard.press('End');
  expect(await page.locator('#token').textContent()).toMatch(/, in the window$/);
  // Layer 0 keeps nothing: through its eyes, the text outside of the window is gone.
  const cells = page.locator('.heat-grid td button');
  await cells.nth(5).click();
  await cells.nth(5).press('ArrowUp');
  await page.keyboard.press('ArrowUp');
  await page.keyboard.press('ArrowLeft');
  await page.keyboard.press('Enter');
  expect(await cells.nth(0).getAttribute('aria-pressed')).toBe('true');
  expect(await cells.nth(5).getAttribute('aria-pressed')).toBe('false');
  expect(await page.locator('#focus').textContent()).toContain('layer 0, head 0');
  const left = (await page.locator('#text span[class*=heat]').count()) - model.cache.window;
  expect(await page.locator('#text .gone').count()).toBe(left);
  await page.keyboard.press('Enter');
  expect(await page.locator('#text .gone').count()).toBeLessThan(left);
  await page.context().close();
});

test('where there are keys it asks for one, and keeps it to itself', async () => {
  await using locked = await startServer(model, { apiKeys: ['right'] });
  const { page } = await openPage(browser, locked.url);
  const field = page.getByLabel('API key');
  await field.fill('wrong');
  await field.press('Enter');
  await page.getByRole('alert').filter({ hasText: 'not one of this server' }).waitFor();
  await field.fill('right');
  await page.getByRole('button', { name: 'Use' }).click();
  await page.locator('.facts').getByText(MODEL_NAME).waitFor();
  expect(await field.isVisible()).toBe(false);
  await page.getByRole('textbox', { name: 'Prompt' }).fill('def walk(');
  await page.getByRole('button', { name: 'Write' }).click();
  await page.getByText(/^Done/).waitFor();
  expect(await page.evaluate(() => [localStorage.length, sessionStorage.length, document.cookie])).toEqual([0, 0, '']);
  await page.context().close();
});

test('what a model writes is text, whatever it looks like', async () => {
  const { page, problems } = await openPage(browser, running.url);
  const evil = '<img src=x onerror="document.title=1"><script>document.title=1</script>&lt;b&gt;\u202e';
  const kept = [...`P${evil}`].map((text, i) => ({ text, heads: '8001', ...(i > 0 && { written: true }) }));
  const cache = { density: 1, bytes: 1, dense_bytes: 1 };
  const timing = { begun_after: 0, first_token_after: 1, ended_after: 2 };
  const events = [
    { choices: [{ index: 0, text: evil, kept: [...kept, { special: '<b>x</b>', heads: '0000', written: true }] }] },
    { choices: [], usage: { prompt_tokens: 1, completion_tokens: 9, prompt_tokens_details: { cached_tokens: 0 }, timing, cache: [cache] } },
  ];
  await page.route('**/v1/completions', (route) => route.fulfill({ contentType: 'text/event-stream', body: `${events.map((event) => `data: ${JSON.stringify(event)}\n\n`).join('')}data: [DONE]\n\n` }));
  await page.getByRole('textbox', { name: 'Prompt' }).fill('P');
  await page.keyboard.press('Control+Enter');
  await page.getByText(/^Done/).waitFor();
  expect(await shownText(page)).toBe(`P${evil}<b>x</b>`);
  expect(await page.locator('#text img, #text script, #text b').count()).toBe(0);
  expect(await page.title()).toBe(`${MODEL_NAME} · spkv`);
  expect(problems).toEqual([]);
  await page.context().close();
});

test('what goes wrong is said', async () => {
  const { page } = await openPage(browser, running.url);
  await page.getByRole('textbox', { name: 'Prompt' }).fill('x'.repeat(5000));
  await page.keyboard.press('Control+Enter');
  await page.getByRole('alert').filter({ hasText: 'The prompt has 5001 tokens' }).waitFor();
  await page.route('**/v1/completions', (route) => route.fulfill({ contentType: 'text/event-stream', body: 'data: {"choices":[{"index":0,"text":"a","kept":[]}]}\n\n' }));
  await page.keyboard.press('Control+Enter');
  await page.getByRole('alert').filter({ hasText: 'The connection ended before the answer did' }).waitFor();
  await page.context().close();
});

test('a conversation', async () => {
  const chat = await chatModel(root, { device });
  await using served = await startServer(chat, { name: 'tiny' });
  const watched = await openPage(browser, served.url);
  const { page, problems } = watched;
  await page.getByText('Chat', { exact: true }).click();
  await page.getByLabel('Most tokens').fill('20');
  const answers: string[] = [];
  for (const message of ['hello', 'the world']) {
    await page.getByRole('textbox', { name: 'Prompt' }).fill(message);
    await page.keyboard.press('Control+Enter');
    await page.getByText(/^Done/).waitFor();
    answers.push((await page.getByRole('list', { name: 'Conversation' }).locator('.assistant p').last().textContent())!);
    expect(await shownText(page)).toContain(`[user] ${message}\n`);
  }
  expect(asked(watched).messages).toEqual([
    { role: 'user', content: 'hello' }, { role: 'assistant', content: answers[0] }, { role: 'user', content: 'the world' },
  ]);
  expect(await page.getByRole('listitem').count()).toBe(4);
  await page.getByRole('button', { name: 'New conversation' }).click();
  expect(await page.getByRole('listitem').count()).toBe(0);
  expect(problems).toEqual([]);
  await page.context().close();
  await served.server.close();
  chat.dispose();
});

test('the server\'s figures are live', async () => {
  const { page } = await openPage(browser, running.url);
  const figures = page.locator('#server-figures');
  await figures.getByText('0 running, 0 waiting').waitFor();
  // Its reader takes one event, and makes it wait.
  const request = running.server.engine.generate('def walk(', { maxTokens: 4000, ignoreEos: true });
  await request[Symbol.asyncIterator]().next();
  await figures.getByText('1 running, 0 waiting').waitFor();
  request.cancel();
  await figures.getByText('0 running, 0 waiting').waitFor();
  expect(await figures.getByRole('meter', { name: 'Pages in use' }).getAttribute('aria-valuemax')).toBe(String(model.cache.capacityPages));
  await page.context().close();
});

const lightness = (color: string) => (/\d+, \d+, \d+/.exec(color)![0].split(', ').map(Number) as [number, number, number])
  .map((value) => ((value / 255 + 0.055) / 1.055) ** 2.4).reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i]!, 0);

test.each([['light', 1280], ['dark', 1280], ['light', 320], ['dark', 390]] as const)('in %s colours, %d pixels wide: nothing is cut off, everything can be read', async (colorScheme, width) => {
  const { page } = await openPage(browser, running.url, { colorScheme, viewport: { width, height: 800 } });
  await page.getByRole('textbox', { name: 'Prompt' }).fill(`${PROMPT}${'x'.repeat(300)}`);
  await page.getByLabel('Most tokens').fill('40');
  await page.keyboard.press('Control+Enter');
  await page.getByText(/^Done/).waitFor();
  expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(width);
  for (const selector of ['h1', '.help', '#status', 'dt', 'dd', '#prompt', '#go', '#text .written']) {
    const [ink, paper] = await page.locator(selector).first().evaluate((element) => {
      let ground: Element | null = element;
      while (ground && /, 0\)$|transparent/.test(getComputedStyle(ground).backgroundColor)) ground = ground.parentElement;
      return [getComputedStyle(element).color, getComputedStyle(ground ?? document.body).backgroundColor];
    });
    const [a, b] = [lightness(ink!), lightness(paper!)].sort((x, y) => y - x) as [number, number];
    expect({ selector, contrast: (a + 0.05) / (b + 0.05) > 4.5 }).toEqual({ selector, contrast: true });
  }
  expect(lightness(await page.locator('body').evaluate((body) => getComputedStyle(body).backgroundColor)) < 0.1).toBe(colorScheme === 'dark');
  await page.context().close();
});
