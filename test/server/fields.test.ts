// Every field of OpenAI's API is either honoured or refused by name; and whatever comes, the server does not fail.
import fc from 'fast-check';
import type { TextModel } from '../../lib/index.js';
import { CHAT_BODY } from '../../lib/server/chat-fields.js';
import { COMPLETION_BODY } from '../../lib/server/completion-fields.js';
import { DETOKENIZE_BODY, TOKENIZE_BODY } from '../../lib/server/info.js';
import { testDevice } from '../support/device.js';
import { expectFree } from '../support/engine.js';
import { temporaryDirectory } from '../support/files.js';
import { schema as schemas } from '../support/schemas.js';
import { chatModel, type Running, startServer } from '../support/server.js';

const root = temporaryDirectory();
let model: TextModel;
let running: Running;
beforeAll(async () => {
  model = await chatModel(root, { device: testDevice() });
  running = await startServer(model, { name: 'tiny', maxTokens: 12 });
});
afterAll(async () => {
  await running.server.close();
  await expectFree(model);
  model.dispose();
});

const CHAT = { model: 'tiny', messages: [{ role: 'user', content: 'hello' }], max_tokens: 2 };
const COMPLETION = { model: 'tiny', prompt: 'hello', max_tokens: 2 };
const tool = { type: 'function', function: { name: 'f', parameters: {} } };
const message = (fields: object) => ({ messages: [{ role: 'user', content: 'hello', ...fields }] });

/** Fields that are not honoured, with values that ask for something. */
const REFUSED: Record<string, [fields: object, param: string][]> = {
  '/v1/chat/completions': [
    [{ tools: [tool] }, 'tools'], [{ tool_choice: 'required' }, 'tool_choice'], [{ functions: [tool.function] }, 'functions'], [{ function_call: { name: 'f' } }, 'function_call'],
    [{ logit_bias: { 50: 1 } }, 'logit_bias'], [{ modalities: ['text', 'audio'] }, 'modalities'], [{ audio: { voice: 'alloy', format: 'wav' } }, 'audio'],
    [{ prediction: { type: 'content', content: 'a' } }, 'prediction'], [{ reasoning_effort: 'high' }, 'reasoning_effort'], [{ verbosity: 'low' }, 'verbosity'],
    [{ web_search_options: {} }, 'web_search_options'], [{ service_tier: 'flex' }, 'service_tier'], [{ store: true }, 'store'], [{ metadata: { a: 'b' } }, 'metadata'],
    [{ prompt_cache_retention: '24h' }, 'prompt_cache_retention'], [{ stream: true, stream_options: { include_obfuscation: true } }, 'stream_options.include_obfuscation'],
    [{ stream_options: { include_usage: true } }, 'stream_options'], [message({ name: 'Ann' }), 'messages[0].name'], [message({ role: 'tool', tool_call_id: 'x' }), 'messages[0].role'],
    [message({ content: [{ type: 'image_url', image_url: { url: 'data:,' } }] }), 'messages[0].content'], [message({ content: null }), 'messages[0].content'],
    [message({ role: 'assistant', tool_calls: [tool] }), 'messages[0].tool_calls'], [message({ refusal: 'no' }), 'messages[0].refusal'],
    [{ prompt: 'a' }, 'prompt'], [{ messages: [] }, 'messages'], [{ temperature: 2.5 }, 'temperature'], [{ n: 0 }, 'n'], [{ n: 100 }, 'n'], [{ stop: Array(17).fill('a') }, 'stop'],
  ],
  '/v1/completions': [
    [{ echo: true }, 'echo'], [{ suffix: 'b' }, 'suffix'], [{ best_of: 2 }, 'best_of'], [{ logit_bias: { 50: 1 } }, 'logit_bias'], [{ logprobs: 21 }, 'logprobs'],
    [{ messages: [] }, 'messages'], [{ prompt: [] }, 'prompt'], [{ prompt: '' }, 'prompt'], [{ prompt: [1.5] }, 'prompt'], [{ seed: -1 }, 'seed'], [{ top_p: 1.1 }, 'top_p'],
    [{ repetition_penalty: 0 }, 'repetition_penalty'], [{ priority: 101 }, 'priority'], [{ threshold: '0.5' }, 'threshold'], [{ max_tokens: 0 }, 'max_tokens'],
  ],
};

test.each(Object.entries(REFUSED))('%s refuses what it does not honour', async (path, cases) => {
  for (const [fields, param] of cases) {
    const { status, body } = await running.post(path, { ...(path.includes('chat') ? CHAT : COMPLETION), ...fields });
    expect({ fields, status, ...body.error }).toMatchObject({ fields, status: 400, type: 'invalid_request_error', param, message: expect.stringContaining(param.split('.').at(-1)!) });
  }
});

test('null is the same as nothing, and so is a value that asks for what is done anyway', async () => {
  const harmless = {
    tools: [], tool_choice: 'auto', parallel_tool_calls: true, response_format: { type: 'text' }, logit_bias: {}, modalities: ['text'], reasoning_effort: 'none',
    verbosity: 'medium', service_tier: 'auto', store: false, metadata: {}, user: 'me', safety_identifier: 'me', prompt_cache_key: 'x', stream_options: null, n: 1,
  };
  expect((await running.post('/v1/chat/completions', { ...CHAT, ...harmless })).status).toBe(200);
  expect((await running.post('/v1/completions', { ...COMPLETION, echo: false, suffix: null, best_of: 1, logit_bias: {} })).status).toBe(200);
  for (const [path, base, schema] of [['/v1/chat/completions', CHAT, CHAT_BODY], ['/v1/completions', COMPLETION, COMPLETION_BODY]] as const) {
    const all = Object.keys(schema['properties'] as object).map((name) => [name, null]);
    const { max_tokens: _, ...required } = base;
    expect(await running.post(path, { ...Object.fromEntries(all), ...required })).toMatchObject({ status: 200 });
  }
});

/** Values near those that a schema takes: right, wrong, or of another kind. */
function valueOf(schema: any): fc.Arbitrary<unknown> {
  const any = fc.oneof(fc.constantFrom(null, true, '', 'a', 0, 1, -1, 0.5, 1e300, [], {}), fc.jsonValue({ maxDepth: 2 }));
  const [type] = [schema.type].flat();
  const right: fc.Arbitrary<unknown> =
    schema.anyOf ? fc.oneof(...schema.anyOf.map(valueOf))
    : schema.enum ? fc.constantFrom(...schema.enum)
    : type === 'integer' ? fc.integer({ min: (schema.minimum ?? 0) - 1, max: Math.min(schema.maximum ?? 300, 300) + 1 })
    : type === 'number' ? fc.double({ min: schema.minimum - 0.1, max: schema.maximum + 0.1, noNaN: true })
    : type === 'boolean' ? fc.boolean()
    : type === 'array' ? fc.array(valueOf(schema.items), { maxLength: 4 })
    : type === 'object' ? (schema.properties ? bodyOf(schema) : fc.oneof(schemas, fc.dictionary(fc.string(), fc.jsonValue({ maxDepth: 2 }))))
    : fc.string({ unit: 'binary', maxLength: 20 });
  return fc.oneof({ weight: 8, arbitrary: right }, { weight: 1, arbitrary: any });
}

function bodyOf(schema: any): fc.Arbitrary<object> {
  const fields = Object.fromEntries(Object.entries(schema.properties).map(([name, of]) => [name, valueOf(of)]));
  return fc.record(fields, { requiredKeys: [] }).chain((record) =>
    // Few fields at a time: among many, one is nearly always wrong.
    fc.subarray(Object.keys(record), { maxLength: Math.min(6, Object.keys(record).length) }).map((names) => Object.fromEntries(names.map((name) => [name, record[name]]))));
}

test.each([
  ['/v1/chat/completions', CHAT, CHAT_BODY], ['/v1/completions', COMPLETION, COMPLETION_BODY],
  ['/tokenize', { text: 'the' }, TOKENIZE_BODY], ['/detokenize', { tokens: [1, 2] }, DETOKENIZE_BODY],
] as const)('%s answers whatever comes', async (path, base, schema) => {
  let answered = 0;
  await fc.assert(
    fc.asyncProperty(bodyOf(schema), fc.boolean(), async (fields, whole) => {
      const { status, body } = await running.post(path, whole ? { ...base, ...fields } : fields);
      if (status === 200) answered++;
      else {
        expect([400, 404]).toContain(status);
        expect(body.error).toMatchObject({ type: 'invalid_request_error', message: expect.stringMatching(/./) });
      }
    }),
    { numRuns: 150 },
  );
  expect(answered).toBeGreaterThan(10);
});
