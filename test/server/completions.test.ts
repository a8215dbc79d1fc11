// POST /v1/completions as OpenAI's own client uses it.
import OpenAI from 'openai';
import { loadModel, type TextModel } from '../../lib/index.js';
import { testDevice } from '../support/device.js';
import { expectFree, until } from '../support/engine.js';
import { MODEL_DIR, MODEL_NAME } from '../support/golden.js';
import { type Running, sseEvents, startServer } from '../support/server.js';

let model: TextModel;
let running: Running;
let client: OpenAI;
beforeAll(async () => {
  model = await loadModel(MODEL_DIR, { device: testDevice(), kvMemory: 128 << 20 });
  running = await startServer(model, { engine: { reuse: 'exact' } });
  ({ client } = running);
});
afterAll(async () => {
  await running.server.close();
  await expectFree(model);
  model.dispose();
});

const PROMPT = 'import os\n\ndef walk(';
const GREEDY = { model: MODEL_NAME, temperature: 0 } as const;

test('a text is what the model writes by itself', async () => {
  const expected = model.generate(PROMPT, { maxTokens: 40 });
  const text = await expected.text();
  const { usage } = await expected.result;
  const answer = await client.completions.create({ ...GREEDY, prompt: PROMPT, max_tokens: 40 });
  expect(answer).toMatchObject({ object: 'text_completion', model: MODEL_NAME, choices: [{ index: 0, text, logprobs: null, finish_reason: 'length' }] });
  expect(answer.id).toMatch(/^cmpl-/);
  expect(Math.abs(answer.created - Date.now() / 1000)).toBeLessThan(60);
  expect(answer.usage).toMatchObject({ prompt_tokens: usage.promptTokens, completion_tokens: 40, total_tokens: usage.promptTokens + 40 });
  const ids = model.encode(PROMPT);
  expect((await client.completions.create({ ...GREEDY, prompt: ids, max_tokens: 40 })).choices[0]!.text).toBe(text);
  expect((await client.completions.create({ ...GREEDY, prompt: PROMPT })).usage!.completion_tokens).toBe(16);
});

test('a stream is the same text in pieces', async () => {
  const whole = await client.completions.create({ ...GREEDY, prompt: PROMPT, max_tokens: 40 });
  const stream = await client.completions.create({ ...GREEDY, prompt: PROMPT, max_tokens: 40, stream: true, stream_options: { include_usage: true } });
  let text = '';
  const reasons: unknown[] = [];
  let usage: unknown;
  let events = 0;
  for await (const chunk of stream) {
    events++;
    text += chunk.choices[0]?.text ?? '';
    if (chunk.choices[0]?.finish_reason) reasons.push(chunk.choices[0].finish_reason);
    if (chunk.choices.length === 0) ({ usage } = chunk);
    else expect(chunk.usage).toBeNull();
  }
  expect(text).toBe(whole.choices[0]!.text);
  expect(reasons).toEqual(['length']);
  expect(usage).toMatchObject({ prompt_tokens: whole.usage!.prompt_tokens, completion_tokens: 40 });
  expect(events).toBeGreaterThan(3); // what waits for its reader comes together
});

test('several prompts with several texts each, whole and streamed', async () => {
  const prompts = [PROMPT, 'class Stack:\n'];
  const options = { temperature: 0.8, seed: 5, maxTokens: 12 };
  const expected: string[] = [];
  for (const prompt of prompts) for (const i of [0, 1]) expected.push(await model.generate(prompt, { ...options, seed: 5 + i }).text());
  const fields = { model: MODEL_NAME, prompt: prompts, n: 2, temperature: 0.8, seed: 5, max_tokens: 12 } as const;
  const whole = await client.completions.create({ ...fields, prompt: [...prompts] });
  expect(whole.choices.map(({ index, text }) => [index, text])).toEqual(expected.map((text, index) => [index, text]));
  const texts = ['', '', '', ''];
  for await (const { choices: [choice] } of await client.completions.create({ ...fields, prompt: [...prompts], stream: true })) {
    texts[choice!.index] += choice!.text;
  }
  expect(texts).toEqual(expected);
});

test('sampling, penalties, stop strings and the threshold are those of the library', async () => {
  const cases: [object, object][] = [
    [{ stop: '\n' }, { stop: '\n' }],
    [{ stop: ['os', ':'] }, { stop: ['os', ':'] }],
    [{ temperature: 0.9, top_p: 0.7, seed: 3 }, { temperature: 0.9, topP: 0.7, seed: 3 }],
    [{ temperature: 1, top_p: 0, seed: 3 }, {}],
    [{ seed: 3, temperature: null }, { temperature: 1, seed: 3 }],
    [{ temperature: 0.9, top_k: 3, min_p: 0.05, seed: 4 }, { temperature: 0.9, topK: 3, minP: 0.05, seed: 4 }],
    [{ frequency_penalty: 1.5, presence_penalty: -0.5 }, { frequencyPenalty: 1.5, presencePenalty: -0.5 }],
    [{ repetition_penalty: 1.4 }, { repetitionPenalty: 1.4 }],
    [{ threshold: 0.95, ignore_eos: true }, { threshold: 0.95, ignoreEos: true }],
  ];
  const long = PROMPT.repeat(8);
  for (const [fields, options] of cases) {
    const expected = model.generate(long, { maxTokens: 30, ...options });
    const text = await expected.text();
    const answer = await running.post('/v1/completions', { ...GREEDY, prompt: long, max_tokens: 30, ...fields });
    expect({ fields, ...answer.body.choices[0] }).toMatchObject({ fields, text, finish_reason: (await expected.result).finishReason });
  }
});

test('without a seed every answer is another one', async () => {
  // Long enough that no two will ever be the same by chance.
  const fields = { model: MODEL_NAME, prompt: PROMPT, max_tokens: 200, ignore_eos: true } as OpenAI.CompletionCreateParamsNonStreaming;
  const texts = await Promise.all(Array.from({ length: 4 }, () => client.completions.create(fields)));
  expect(new Set(texts.map(({ choices }) => choices[0]!.text)).size).toBe(4);
});

test('log-probabilities', async () => {
  const fields = { ...GREEDY, prompt: PROMPT, max_tokens: 8, logprobs: 2 };
  const { choices } = await client.completions.create(fields);
  const { text, logprobs } = choices[0]!;
  expect(logprobs!.tokens!.join('')).toBe(text);
  expect(logprobs!.text_offset).toEqual([...text].map((_, i) => i));
  for (const [i, top] of logprobs!.top_logprobs!.entries()) {
    const values = Object.values(top);
    expect(values).toHaveLength(2); // the likeliest was taken
    expect(top[logprobs!.tokens![i]!]).toBe(logprobs!.token_logprobs![i]);
    expect(Math.max(...values)).toBe(logprobs!.token_logprobs![i]);
    expect(values.reduce((sum, value) => sum + Math.exp(value), 0)).toBeLessThanOrEqual(1.000001);
  }
  const streamed = sseEvents((await running.post('/v1/completions', { ...fields, stream: true })).body).map((event) => event.choices[0].logprobs);
  expect(streamed.flatMap(({ tokens }) => tokens)).toEqual(logprobs!.tokens);
  expect(streamed.flatMap(({ token_logprobs }) => token_logprobs)).toEqual(logprobs!.token_logprobs);
  expect(streamed.flatMap(({ text_offset }) => text_offset)).toEqual(logprobs!.text_offset);
  expect((await client.completions.create({ ...fields, logprobs: 0 })).choices[0]!.logprobs).toMatchObject({ top_logprobs: null });
});

test('the client\'s own errors', async () => {
  await expect(client.completions.create({ ...GREEDY, model: 'gpt-2', prompt: 'a' })).rejects.toMatchObject({ constructor: OpenAI.NotFoundError, status: 404, code: 'model_not_found', param: 'model' });
  await expect(client.completions.create({ ...GREEDY, prompt: 'a', echo: true })).rejects.toMatchObject({
    constructor: OpenAI.BadRequestError, status: 400, type: 'invalid_request_error', param: 'echo', code: 'unsupported_parameter',
  });
  await expect(client.completions.create({ ...GREEDY, prompt: [320] })).rejects.toMatchObject({ status: 400, param: 'prompt', code: 'out_of_range' });
  await expect(client.completions.create({ ...GREEDY, prompt: 'a'.repeat(4097) })).rejects.toMatchObject({ status: 400, param: 'prompt', code: 'context_length_exceeded' });
  await expect(client.completions.create({ ...GREEDY, prompt: 'a'.repeat(4000), max_tokens: 100 })).rejects.toMatchObject({ status: 400, param: 'max_tokens', code: 'context_length_exceeded' });
  await expect(client.completions.create({ ...GREEDY, prompt: 'a', n: 2, best_of: 3 })).rejects.toMatchObject({ status: 400, param: 'best_of' });
  await expect(client.completions.create({ ...GREEDY, prompt: ['a', 'b'], n: 65 })).rejects.toMatchObject({ status: 400, param: 'n' });
  await expect(client.embeddings.create({ model: MODEL_NAME, input: 'a' })).rejects.toMatchObject({ constructor: OpenAI.NotFoundError, status: 404 });
});

test('a stream that its reader leaves is broken off', async () => {
  const { engine } = running.server;
  const { failed } = engine.stats().requests;
  const controller = new AbortController();
  const stream = await client.completions.create({ ...GREEDY, prompt: PROMPT, max_tokens: 4000, stream: true, ignore_eos: true } as never, { signal: controller.signal }) as unknown as AsyncIterable<unknown>;
  let events = 0;
  for await (const _ of stream) if (++events === 5) controller.abort();
  await until(() => engine.stats().requests.failed > failed);
  expect(engine.stats().texts).toEqual({ reading: 0, writing: 0, paused: 0 });
});
