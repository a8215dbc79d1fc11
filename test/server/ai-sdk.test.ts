// The server as the AI SDK uses it, through its provider for servers like OpenAI's.
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { APICallError, generateText, jsonSchema, streamText } from 'ai';
import { loadModel, type TextModel } from '../../lib/index.js';
import { testDevice } from '../support/device.js';
import { until } from '../support/engine.js';
import { temporaryDirectory } from '../support/files.js';
import { MODEL_DIR } from '../support/golden.js';
import { chatModel, type Running, startServer } from '../support/server.js';

const device = testDevice();
const root = temporaryDirectory();
let model: TextModel;
let running: Running;
let provider: ReturnType<typeof createOpenAICompatible>;
beforeAll(async () => {
  model = await chatModel(root, { device });
  running = await startServer(model, { name: 'tiny', apiKeys: ['secret'] });
  provider = createOpenAICompatible({ name: 'spkv', baseURL: `${running.url}/v1`, apiKey: 'secret', includeUsage: true });
});
afterAll(async () => {
  await running.server.close();
  model.dispose();
});

const SETTINGS = { system: 'Be brief.', prompt: 'the hello', maxOutputTokens: 20, maxRetries: 0 };
const ids = () => model.tokenizer!.encode('[system] Be brief.\n[user] the hello\n[assistant] ', { addSpecialTokens: false });

test('a text, whole and streamed', async () => {
  const expected = await model.generate(ids(), { maxTokens: 20 }).text();
  const whole = await generateText({ ...SETTINGS, model: provider('tiny'), temperature: 0 });
  expect(whole).toMatchObject({ text: expected, finishReason: 'length', warnings: [] });
  expect(whole.usage).toMatchObject({ inputTokens: ids().length, outputTokens: 20 });
  const stream = streamText({ ...SETTINGS, model: provider('tiny'), temperature: 0 });
  let text = '';
  for await (const piece of stream.textStream) text += piece;
  expect(text).toBe(expected);
  expect(await stream.usage).toMatchObject({ inputTokens: ids().length, outputTokens: 20 });
});

test('sampling, stop strings, and the threshold as an option of the provider', async () => {
  const options = { temperature: 0.8, topP: 0.9, frequencyPenalty: 0.5, seed: 3 };
  const expected = await model.generate(ids(), { ...options, maxTokens: 20, threshold: 0.2, stop: 'zz' }).text();
  const given = { ...SETTINGS, ...options, stopSequences: ['zz'], providerOptions: { spkv: { threshold: 0.2, user: 'me' } } };
  expect((await generateText({ ...given, model: provider('tiny') })).text).toBe(expected);
});

test('tools are refused by name', async () => {
  const tools = { clock: { description: 'the time', inputSchema: jsonSchema({ type: 'object', properties: {} }) } };
  const asked = generateText({ ...SETTINGS, model: provider('tiny'), tools });
  await expect(asked).rejects.toBeInstanceOf(APICallError);
  await expect(asked).rejects.toMatchObject({ statusCode: 400, message: '"tools" is not supported: the model calls no tools' });
});

test('a stream that is aborted is broken off', async () => {
  // A text that is long enough not to have ended before.
  using long = await loadModel(MODEL_DIR, { device, kvMemory: 64 << 20 });
  await using served = await startServer(long, { name: 'long' });
  const controller = new AbortController();
  const { completionModel } = createOpenAICompatible({ name: 'spkv', baseURL: `${served.url}/v1` });
  const settings = { prompt: 'def walk(', maxOutputTokens: 4000, maxRetries: 0, providerOptions: { spkv: { ignore_eos: true } } };
  for await (const _ of streamText({ ...settings, model: completionModel('long'), abortSignal: controller.signal }).textStream) {
    controller.abort();
    break;
  }
  await until(() => served.server.engine.stats().requests.failed === 1);
});
