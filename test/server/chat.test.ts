// POST /v1/chat/completions as OpenAI's own client uses it.
import type OpenAI from 'openai';
import type { TextModel } from '../../lib/index.js';
import { testDevice } from '../support/device.js';
import { expectFree } from '../support/engine.js';
import { temporaryDirectory } from '../support/files.js';
import { chatModel, type Running, startServer } from '../support/server.js';

const root = temporaryDirectory();
let model: TextModel;
let running: Running;
let client: OpenAI;
beforeAll(async () => {
  model = await chatModel(root, { device: testDevice() });
  running = await startServer(model, { name: 'tiny', engine: { reuse: 'exact' } });
  ({ client } = running);
});
afterAll(async () => {
  await running.server.close();
  await expectFree(model);
  model.dispose();
});

const messages = [
  { role: 'system', content: 'Be brief.' },
  { role: 'user', content: 'the hello' },
] as const;
const fields = { model: 'tiny', temperature: 0, messages: [...messages] };

async function expected(text: string, maxTokens: number): Promise<{ text: string; finishReason: string }> {
  const ids = model.tokenizer!.encode(text, { addSpecialTokens: false });
  const generation = model.generate(ids, { maxTokens });
  return { text: await generation.text(), finishReason: (await generation.result).finishReason };
}

test('the template makes the prompt, and the answer is what the model writes', async () => {
  const { text, finishReason } = await expected('[system] Be brief.\n[user] the hello\n[assistant] ', 30);
  const answer = await client.chat.completions.create({ ...fields, max_completion_tokens: 30 });
  expect(answer).toMatchObject({
    object: 'chat.completion', model: 'tiny',
    choices: [{ index: 0, message: { role: 'assistant', content: text, refusal: null }, logprobs: null, finish_reason: finishReason }],
  });
  expect(answer.id).toMatch(/^chatcmpl-/);
  expect((await client.chat.completions.create({ ...fields, max_tokens: 30 })).choices[0]!.message.content).toBe(text);
});

test('developer is system, and the parts of a text are one text', async () => {
  const { text } = await expected('[system] Be brief.\n[user] the hello\n[assistant] ', 10);
  const answer = await client.chat.completions.create({
    ...fields, max_tokens: 10,
    messages: [{ role: 'developer', content: 'Be brief.' }, { role: 'user', content: [{ type: 'text', text: 'the ' }, { type: 'text', text: 'hello' }] }],
  });
  expect(answer.choices[0]!.message.content).toBe(text);
});

test('without a limit an answer may take all the room there is', async () => {
  const { usage, choices } = await client.chat.completions.create({ ...fields, ignore_eos: true } as typeof fields);
  expect(choices[0]!.finish_reason).toBe('length');
  expect(usage!.total_tokens).toBe(512 + 1); // the last one is not read
});

test('a stream has the role first and the reason last', async () => {
  const whole = await client.chat.completions.create({ ...fields, max_tokens: 20, n: 2, seed: 1, temperature: 1 });
  const stream = await client.chat.completions.create({ ...fields, max_tokens: 20, n: 2, seed: 1, temperature: 1, stream: true, stream_options: { include_usage: true } });
  const texts = ['', ''];
  const chunks: OpenAI.ChatCompletionChunk[] = [];
  for await (const chunk of stream) {
    chunks.push(chunk);
    for (const { index, delta } of chunk.choices) texts[index] += delta.content ?? '';
  }
  expect(texts).toEqual(whole.choices.map(({ message }) => message.content));
  for (const index of [0, 1]) {
    const own = chunks.flatMap(({ choices }) => choices).filter((choice) => choice.index === index);
    expect(own[0]!.delta).toMatchObject({ role: 'assistant', content: '' });
    expect(own.at(-1)).toMatchObject({ delta: {}, finish_reason: whole.choices[index]!.finish_reason });
    expect(own.slice(0, -1).every(({ finish_reason }) => finish_reason === null)).toBe(true);
  }
  expect(chunks.at(-1)!.choices).toEqual([]);
  expect(chunks.at(-1)!.usage).toMatchObject({ completion_tokens: whole.usage!.completion_tokens });
});

test('the client\'s stream helper puts the answer together', async () => {
  const whole = await client.chat.completions.create({ ...fields, max_tokens: 20 });
  const stream = client.chat.completions.stream({ ...fields, max_tokens: 20 });
  expect((await stream.finalChatCompletion()).choices[0]!.message.content).toBe(whole.choices[0]!.message.content);
});

test('log-probabilities with the bytes of tokens', async () => {
  const { choices } = await client.chat.completions.create({ ...fields, max_tokens: 12, logprobs: true, top_logprobs: 3 });
  const { content } = choices[0]!.logprobs!;
  const bytes = content!.flatMap((token) => token.bytes!);
  expect(Buffer.from(bytes).toString()).toBe(choices[0]!.message.content);
  for (const { logprob, top_logprobs } of content!) {
    expect(top_logprobs).toHaveLength(3);
    expect(top_logprobs[0]!.logprob).toBe(logprob);
  }
  const alone = await client.chat.completions.create({ ...fields, max_tokens: 2, logprobs: true });
  expect(alone.choices[0]!.logprobs!.content![0]!.top_logprobs).toEqual([]);
});

test('what a template refuses is the fault of the messages', async () => {
  const late = [...fields.messages, { role: 'system' as const, content: 'late' }];
  await expect(client.chat.completions.create({ ...fields, messages: late })).rejects.toMatchObject({ status: 400, param: 'messages', message: expect.stringContaining('system comes first') });
});

test('limits that contradict one another', async () => {
  await expect(client.chat.completions.create({ ...fields, max_tokens: 3, max_completion_tokens: 4 })).rejects.toMatchObject({ status: 400, param: 'max_tokens' });
  await expect(client.chat.completions.create({ ...fields, max_completion_tokens: 600 })).rejects.toMatchObject({ status: 400, param: 'max_completion_tokens' });
  await expect(client.chat.completions.create({ ...fields, top_logprobs: 2 })).rejects.toMatchObject({ status: 400, param: 'top_logprobs' });
});
