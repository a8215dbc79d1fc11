// What answers tell of their making, to clients that ask.
import { loadModel, type TextModel } from '../../lib/index.js';
import { testDevice } from '../support/device.js';
import { expectFree } from '../support/engine.js';
import { temporaryDirectory } from '../support/files.js';
import { MODEL_DIR, MODEL_NAME } from '../support/golden.js';
import { chatModel, type Running, sseEvents, startServer } from '../support/server.js';

const device = testDevice();
const root = temporaryDirectory();
let model: TextModel;
let running: Running;
beforeAll(async () => {
  model = await loadModel(MODEL_DIR, { device, kvMemory: 64 << 20 });
  running = await startServer(model);
});
afterAll(async () => {
  await running.server.close();
  await expectFree(model);
  model.dispose();
});

// Longer than the window, and with characters of several tokens.
const PROMPT = `# é €\n${'def walk(path):\n    return os.walk(path)\n'.repeat(5)}`;
const ASK = { model: MODEL_NAME, prompt: PROMPT, max_tokens: 30, temperature: 0, ignore_eos: true };
const STREAM = { stream: true, stream_options: { include_usage: true } };

interface Kept {
  text?: string;
  special?: string;
  heads: string;
  written?: boolean;
}

const bits = ({ heads }: Kept) => [...heads].flatMap((digit) => [8, 4, 2, 1].map((bit) => Number((Number.parseInt(digit, 16) & bit) > 0)));
const textOf = (kept: readonly Kept[]) => kept.map(({ text = '' }) => text).join('');

/** The densities of each layer and head that follow from what was told of each token. */
function densities(kept: readonly Kept[]): number[][] {
  const { layers, kvHeads, window } = model.cache;
  const left = kept.slice(0, -window).map(bits);
  return Array.from({ length: layers }, (_, layer) =>
    Array.from({ length: kvHeads }, (_, head) => left.reduce((sum, mask) => sum + mask[layer * kvHeads + head]!, 0) / left.length));
}

test('nobody is told who does not ask', async () => {
  const { body } = await running.post('/v1/completions', ASK);
  expect(Object.keys(body.usage).sort()).toEqual(['completion_tokens', 'prompt_tokens', 'prompt_tokens_details', 'total_tokens']);
  expect(Object.keys(body.choices[0]).sort()).toEqual(['finish_reason', 'index', 'logprobs', 'text']);
  const events = sseEvents((await running.post('/v1/completions', { ...ASK, ...STREAM })).body);
  for (const { choices } of events) for (const choice of choices) expect(choice).not.toHaveProperty('kept');
  expect(events.at(-1).usage).not.toHaveProperty('cache');
});

test('the summary is what the model itself reports of the same text', async () => {
  const generation = model.generate(PROMPT, { maxTokens: 30, ignoreEos: true, threshold: 0.3 });
  await generation.text();
  const { densePairs: dense_pairs, denseBytes: dense_bytes, ...same } = (await generation.result).cache;
  const { body } = await running.post('/v1/completions', { ...ASK, threshold: 0.3, report: 'summary' });
  expect(body.usage.cache).toEqual([{ ...same, dense_pairs, dense_bytes }]);
  expect(body.choices[0]).not.toHaveProperty('kept');
  const { begun_after, first_token_after, ended_after } = body.usage.timing;
  expect([0, begun_after, first_token_after, ended_after].sort((a, b) => a - b)).toEqual([0, begun_after, first_token_after, ended_after]);
  const last = sseEvents((await running.post('/v1/completions', { ...ASK, ...STREAM, threshold: 0.3, report: 'summary' })).body).at(-1);
  expect(last.usage.cache).toEqual(body.usage.cache);
});

test('what is told of each token adds up to the summary, streamed or not', async () => {
  const { body } = await running.post('/v1/completions', { ...ASK, report: 'tokens' });
  const [{ kept, text }] = body.choices as [{ kept: Kept[]; text: string }];
  expect(kept).toHaveLength(body.usage.total_tokens - 1);
  expect(kept[0]!.special).toMatch(/./);
  expect(textOf(kept)).toBe((PROMPT + text).slice(0, -1));
  expect(kept.filter(({ written }) => written)).toHaveLength(29);
  expect(body.usage.cache[0].densities).toEqual(densities(kept));
  expect(new Set(kept.flatMap(bits)).size).toBe(2);
  const events = sseEvents((await running.post('/v1/completions', { ...ASK, ...STREAM, report: 'tokens' })).body);
  expect(events.flatMap(({ choices }) => choices.flatMap((choice: { kept: Kept[] }) => choice.kept))).toEqual(kept);
  // It comes with the text, not at the end.
  let [written, told] = ['', ''];
  for (const { choices: [choice] } of events.slice(0, -1)) {
    written += choice.text;
    told += textOf(choice.kept);
    expect(told).toBe((PROMPT + written).slice(0, -1));
  }
});

test('several prompts and texts: each is told its own, and its first text the prompt', async () => {
  const prompts = [PROMPT, PROMPT.slice(0, 170)];
  const { body } = await running.post('/v1/completions', { ...ASK, prompt: prompts, n: 2, temperature: 1, seed: 3, report: 'tokens' });
  expect(body.usage.cache).toHaveLength(4);
  for (const [i, { kept, text }] of (body.choices as { kept: Kept[]; text: string }[]).entries()) {
    const prompt = prompts[Math.floor(i / 2)]!;
    expect((prompt + text).startsWith(textOf(kept)) || (prompt.at(-1)! + text).startsWith(textOf(kept))).toBe(true);
    expect(kept.some(({ special }) => special !== undefined)).toBe(i % 2 === 0);
    if (i % 2 === 0) expect(body.usage.cache[i].densities).toEqual(densities(kept));
  }
});

test('a conversation is told from its first token, also where the cache has most of it', async () => {
  const chat = await chatModel(root, { device });
  await using served = await startServer(chat, { name: 'tiny' });
  const messages = [{ role: 'user', content: 'hello' }];
  const ask = { model: 'tiny', temperature: 0, max_completion_tokens: 40, ignore_eos: true, report: 'tokens', ...STREAM };
  const turn = async () => {
    const events = sseEvents((await served.post('/v1/chat/completions', { ...ask, messages })).body);
    const choices = events.flatMap((event) => event.choices as { kept: Kept[]; delta: { content?: string } }[]);
    return { kept: choices.flatMap(({ kept }) => kept ?? []), text: choices.map(({ delta }) => delta.content ?? '').join(''), usage: events.at(-1).usage };
  };
  const first = await turn();
  expect(first.kept).toHaveLength(first.usage.total_tokens - 1);
  messages.push({ role: 'assistant', content: first.text }, { role: 'user', content: 'the' });
  const second = await turn();
  expect(second.kept).toHaveLength(second.usage.total_tokens - 1);
  expect(textOf(second.kept)).toContain('[user] hello\n');
  await served.server.close();
  chat.dispose();
});

test.each([
  [{ report: 'all' }, 'report', /one of "summary", "tokens"/],
  [{ report: true }, 'report', /but received true/],
  [{ report: 'tokens', stream: true }, 'report', /include_usage/],
])('%j is refused', async (fields, param, message) => {
  const { status, body } = await running.post('/v1/completions', { ...ASK, ...fields });
  expect({ status, ...body.error }).toMatchObject({ status: 400, param, message: expect.stringMatching(message) });
});

test('the clients that know nothing of it leave it as it is', async () => {
  const fields = { ...ASK, report: 'tokens', stream: false } as const;
  const completion = await running.client.completions.create(fields);
  expect((completion.choices[0] as unknown as { kept: Kept[] }).kept.length).toBeGreaterThan(0);
});
