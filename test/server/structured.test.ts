// Answers of a prescribed form, as clients ask for them.
import { Ajv2020 } from 'ajv/dist/2020.js';
import { zodResponseFormat } from 'openai/helpers/zod';
import { z } from 'zod';
import type { TextModel } from '../../lib/index.js';
import { testDevice } from '../support/device.js';
import { expectFree } from '../support/engine.js';
import { temporaryDirectory } from '../support/files.js';
import { chatModel, type Running, sseEvents, startServer } from '../support/server.js';

const root = temporaryDirectory();
let model: TextModel;
let running: Running;
beforeAll(async () => {
  model = await chatModel(root, { device: testDevice() });
  running = await startServer(model, { name: 'tiny' });
});
afterAll(async () => {
  await running.server.close();
  await expectFree(model);
  model.dispose();
});

const messages = [{ role: 'user' as const, content: 'hello' }];
const CHAT = { model: 'tiny', messages, temperature: 2, max_tokens: 300 };
const SCHEMA = {
  type: 'object', additionalProperties: false, required: ['city', 'degrees', 'tags'],
  properties: { city: { type: 'string', maxLength: 20 }, degrees: { type: 'integer', minimum: -90, maximum: 60 }, tags: { type: 'array', items: { enum: ['sun', 'rain'] }, maxItems: 2 } },
};
const format = (json_schema: object) => ({ response_format: { type: 'json_schema', json_schema: { name: 'weather', ...json_schema } } });
const chat = (fields: object) => running.post('/v1/chat/completions', { ...CHAT, ...fields });

describe('the openai package', () => {
  test('parses what a zod schema asks for', async () => {
    const Event = z.object({
      name: z.string().max(10), day: z.enum(['Monday', 'Friday']), guests: z.array(z.object({ name: z.string().max(5), age: z.number().int().min(0).max(120).nullable() })).max(2), fine: z.boolean(),
    });
    let parsed = 0;
    for (let seed = 0; seed < 6; seed++) {
      const answer = await running.client.chat.completions.parse({ ...CHAT, seed, response_format: zodResponseFormat(Event, 'event') }).catch((error: Error) => {
        if (error.name !== 'LengthFinishReasonError' && !/length limit/.test(error.message)) throw error;
        return undefined;
      });
      if (!answer) continue;
      const event = answer.choices[0]!.message.parsed!;
      expect(Event.parse(event)).toEqual(event);
      parsed++;
    }
    expect(parsed).toBeGreaterThan(2);
  });

  test('streams JSON of a schema', async () => {
    const stream = running.client.chat.completions.stream({ ...CHAT, seed: 5, response_format: { type: 'json_schema', json_schema: { name: 'weather', strict: true, schema: SCHEMA } } });
    const { choices } = await stream.finalChatCompletion();
    expect(choices[0]!.finish_reason).toBe('stop');
    expect(new Ajv2020().validate(SCHEMA, JSON.parse(choices[0]!.message.content!))).toBe(true);
  });

  test('is told by name what is not supported', async () => {
    const asked = running.client.chat.completions.create({ ...CHAT, response_format: { type: 'json_schema', json_schema: { name: 'a', schema: { type: 'object', properties: { a: { not: {} } } } } } });
    await expect(asked).rejects.toMatchObject({
      status: 400, code: 'unsupported', param: 'response_format.json_schema.schema', message: expect.stringContaining('The keyword "not" at #/properties/a is not supported'),
    });
  });
});

test('several texts, each of them JSON that fits, the same in one piece and as events', async () => {
  const fields = { ...format({ schema: SCHEMA, description: 'the weather', strict: null }), n: 3, seed: 11 };
  const { status, body } = await chat(fields);
  expect(status).toBe(200);
  for (const { message, finish_reason } of body.choices) {
    expect(finish_reason).toBe('stop');
    expect(new Ajv2020().validate(SCHEMA, JSON.parse(message.content))).toBe(true);
  }
  const events = sseEvents((await chat({ ...fields, stream: true })).body);
  const texts = [0, 1, 2].map((index) => events.flatMap(({ choices }) => choices).filter((choice) => choice.index === index).map(({ delta }) => delta.content ?? '').join(''));
  expect(texts).toEqual(body.choices.map((choice: any) => choice.message.content));
});

test('any object, and nothing but text', async () => {
  for (let seed = 0; seed < 5; seed++) {
    const { body } = await chat({ response_format: { type: 'json_object' }, seed });
    const [{ message, finish_reason }] = body.choices;
    if (finish_reason === 'stop') expect(typeof JSON.parse(message.content)).toBe('object');
    else expect(message.content).toMatch(/^\{/);
  }
  const [text, plain] = [await chat({ response_format: { type: 'text' }, seed: 3, max_tokens: 20 }), await chat({ seed: 3, max_tokens: 20 })];
  expect(text.body.choices).toEqual(plain.body.choices);
});

test('what max_tokens cuts off has the reason "length"', async () => {
  const { body } = await chat({ ...format({ schema: SCHEMA }), max_tokens: 3 });
  expect(body.choices[0].finish_reason).toBe('length');
});

describe('structured_outputs', () => {
  test.each<[object, RegExp]>([
    [{ regex: '(the|hello) [a-z]{3}\\d' }, /^(the|hello) [a-z]{3}\d$/],
    [{ choice: ['yes (?)', 'no [1]', 'a|b\\'] }, /^(yes \(\?\)|no \[1\]|a\|b\\)$/],
    [{ json: { type: 'array', items: { const: 'x' }, maxItems: 3 } }, /^\[[\s",x]*\]$/],
    [{ json: { type: 'boolean' }, regex: null }, /^(true|false)$/],
  ])('%j', async (structured_outputs, expected) => {
    for (const [path, fields] of [['/v1/chat/completions', { messages }], ['/v1/completions', { prompt: 'hello' }]] as const) {
      const { status, body } = await running.post(path, { model: 'tiny', temperature: 2, max_tokens: 300, structured_outputs, ...fields });
      expect(status).toBe(200);
      expect([body.choices[0].text ?? body.choices[0].message.content, body.choices[0].finish_reason]).toEqual([expect.stringMatching(expected), 'stop']);
    }
  });

  test('an object of JSON, for a prompt', async () => {
    const { body } = await running.post('/v1/completions', { model: 'tiny', prompt: 'hello', max_tokens: 20, structured_outputs: { json_object: true } });
    expect(body.choices[0].text).toMatch(/^\{/);
  });
});

const strict = (schema: object) => format({ strict: true, schema });
test.each<[object, string, string]>([
  [{ response_format: 'json' }, 'response_format', 'an object'], [{ response_format: {} }, 'response_format.type', 'Missing'],
  [{ response_format: { type: 'xml' } }, 'response_format.type', '"json_schema"'], [{ response_format: { type: 'json_schema' } }, 'response_format.json_schema', 'Missing'],
  [{ response_format: { type: 'text', json_schema: { name: 'a' } } }, 'response_format.json_schema', 'needs the type'], [format({}), 'response_format.json_schema.schema', 'Missing'],
  [format({ name: 'a b', schema: {} }), 'response_format.json_schema.name', 'letters, digits'], [format({ schema: [] }), 'response_format.json_schema.schema', 'an object'],
  [format({ schema: {}, strictly: true }), 'response_format.json_schema.strictly', 'did you mean "strict"'], [format({ schema: { type: 'strin' } }), 'response_format.json_schema.schema', '#/type'],
  [format({ schema: { type: 'object', properties: { a: { $ref: '#' } }, required: ['a'] } }), 'response_format.json_schema.schema', 'no text fits'],
  [strict({ type: 'array' }), 'response_format.json_schema.schema', '"type": "object" at #'], [strict({ anyOf: [SCHEMA] }), 'response_format.json_schema.schema', 'not a choice, at #'],
  [strict({ type: 'object', properties: {} }), 'response_format.json_schema.schema', '"additionalProperties": false at #'],
  [strict({ ...SCHEMA, required: ['city', 'tags'] }), 'response_format.json_schema.schema', '"degrees" in "required" at #'],
  [strict({ ...SCHEMA, properties: { ...SCHEMA.properties, tags: { type: 'array', items: { anyOf: [{ type: 'object' }] } } } }), 'response_format.json_schema.schema', 'at #/properties/tags/items/anyOf/0'],
  [{ structured_outputs: { regex: '(' } }, 'structured_outputs.regex', 'a regular expression'], [{ structured_outputs: { regex: '(?=a)' } }, 'structured_outputs.regex', 'a lookahead'],
  [{ structured_outputs: { regex: 'a', choice: ['a'] } }, 'structured_outputs.choice', 'exclude each other'], [{ structured_outputs: { choice: [] } }, 'structured_outputs.choice', 'an array'],
  [{ structured_outputs: { grammar: 'root ::= "a"' } }, 'structured_outputs.grammar', 'not supported'], [{ structured_outputs: { json: { if: {} } } }, 'structured_outputs.json', '"if" at #'],
  [{ structured_outputs: { regex: 'a' }, response_format: { type: 'json_object' } }, 'structured_outputs.regex', 'exclude each other'],
  [{ structured_outputs: { regex: 'a' }, ignore_eos: true }, 'ignore_eos', 'does not go with'],
])('%# is refused with the field', async (fields, param, message) => {
  const { status, body } = await chat(fields);
  expect({ status, ...body.error }).toMatchObject({ status: 400, type: 'invalid_request_error', param, message: expect.stringContaining(message) });
});

test('schemas made to be expensive are refused', async () => {
  const deep = `${'{"items":'.repeat(30_000)}{}${'}'.repeat(30_000)}`;
  const body = JSON.stringify({ ...CHAT, ...format({ schema: { type: 'array' } }) }).replace('{"type":"array"}', deep);
  expect(await running.post('/v1/chat/completions', body)).toMatchObject({ status: 400 });
  expect(await chat({ structured_outputs: { regex: '((a{1000}){1000}){1000}' } })).toMatchObject({ status: 400 });
  expect((await chat({ max_tokens: 2 })).status).toBe(200);
});
