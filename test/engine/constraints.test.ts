// Constraints among many: the same text as alone, however the others come and go.
import { Ajv2020 } from 'ajv/dist/2020.js';
import { Rates } from '../../lib/engine/rates.js';
import { type Constraint, Engine, type RequestOptions, type TextModel } from '../../lib/index.js';
import { testDevice } from '../support/device.js';
import { alone, expectFree } from '../support/engine.js';
import { temporaryDirectory } from '../support/files.js';
import { chatModel } from '../support/server.js';

const device = testDevice();
const root = temporaryDirectory();
const SCHEMA = {
  type: 'array', minItems: 2, maxItems: 4,
  items: { type: 'object', additionalProperties: false, required: ['a', 'b'], properties: { a: { type: 'string', minLength: 3, maxLength: 9 }, b: { anyOf: [{ type: 'number' }, { type: 'null' }] } } },
};
let model: TextModel;
let json: Constraint;
let regex: Constraint;
beforeAll(async () => {
  model = await chatModel(root, { device });
  json = await model.constrain({ jsonSchema: SCHEMA });
  regex = await model.constrain({ regex: '[0-9a-f]{30}|(hello ){9}' });
});
afterAll(() => model.dispose());

const prompt = (length: number) => Array.from({ length }, (_, i) => 97 + ((i * i + length) % 26));
const jobs = (): { prompt: number[]; options: RequestOptions }[] => [
  { prompt: prompt(40), options: { constraint: json, maxTokens: 200, n: 3, seed: 1 } },
  { prompt: prompt(70), options: { maxTokens: 60, seed: 2 } },
  { prompt: prompt(9), options: { constraint: regex, maxTokens: 80, frequencyPenalty: 1, seed: 3, n: 2 } },
  { prompt: prompt(40), options: { constraint: json, maxTokens: 200, topP: 0.9, logprobs: 2, seed: 4 } },
  { prompt: prompt(100), options: { constraint: json, maxTokens: 12, seed: 5 } },
  { prompt: prompt(33), options: { constraint: regex, temperature: 0, repetitionPenalty: 2, maxTokens: 80 } },
];
const valid = new Ajv2020().compile(SCHEMA);

async function run(engine: Engine): Promise<void> {
  const all = jobs().map(({ prompt: ids, options }) => ({ ids, options: { temperature: 2, ...options } }));
  const requests = all.map(({ ids, options }) => engine.generate(ids, options));
  const results = await Promise.all(requests.map(({ result }) => result));
  for (const [i, { ids, options }] of all.entries()) {
    expect(results[i]!.choices.map(({ tokens }) => tokens.map(({ id }) => id))).toEqual(await alone(model, ids, options));
    for (const { text, finishReason } of results[i]!.choices) {
      if (options.constraint === json && finishReason === 'stop') expect(valid(JSON.parse(text))).toBe(true);
      if (options.constraint === regex) expect([text, finishReason]).toEqual([expect.stringMatching(/^([0-9a-f]{30}|(hello ){9})$/), 'stop']);
    }
  }
  expect(results[4]!.choices[0]!.finishReason).toBe('length');
  expect(results.filter((_, i) => i < 4).flatMap(({ choices }) => choices).filter(({ finishReason }) => finishReason === 'stop').length).toBeGreaterThan(3);
  // Log-probabilities are those of the model, whatever is allowed.
  for (const { logprob, top } of results[3]!.choices[0]!.tokens) expect(logprob!).toBeLessThanOrEqual(top![0]!.logprob);
}

test('each text is what it is alone, beside others without a constraint', async () => {
  await using engine = new Engine(model);
  await run(engine);
  await run(engine); // with prefixes that are known
  expect(engine.stats().prefixes.hits).toBeGreaterThan(0);
});

test.each(['saved', 'dropped'] as const)('texts that make room go on as if nothing had been: their state is %s', async (way) => {
  const small = await chatModel(root, { device, pages: 60 });
  const rates = new Rates();
  (way === 'saved' ? rates.read : rates.save).note(1e9);
  const engine = new Engine(small, { reuse: 'none' }, rates);
  const constraint = await small.constrain({ jsonSchema: SCHEMA });
  const options = { constraint, maxTokens: 150, temperature: 2, threshold: 0 };
  const requests = Array.from({ length: 6 }, (_, i) => engine.generate(prompt(30 + 20 * i), { ...options, seed: i }));
  const texts = await Promise.all(requests.map(async ({ result }) => (await result).choices.map(({ tokens }) => tokens.map(({ id }) => id))));
  for (const [i, ids] of texts.entries()) expect(ids).toEqual(await alone(model, prompt(30 + 20 * i), { ...options, constraint: json, seed: i }));
  expect(engine.stats().preemptions[way]).toBeGreaterThan(0);
  await engine.close();
  await expectFree(small);
  small.dispose();
});

test('a text that is poisoned fails alone, beside constraints', async () => {
  const poisoned = await chatModel(root, { device, poison: 105 });
  await using engine = new Engine(poisoned);
  const constraint = await poisoned.constrain({ regex: '[0-9]{20}' });
  const good = Array.from({ length: 3 }, (_, seed) => engine.generate(prompt(12).map((id) => (id === 105 ? 97 : id)), { constraint, temperature: 2, seed }));
  const bad = engine.generate([97, 105, 98], { maxTokens: 5 });
  await expect(bad.result).rejects.toMatchObject({ code: 'NON_FINITE' });
  for (const { choices } of await Promise.all(good.map(({ result }) => result))) expect(choices[0]!.text).toMatch(/^\d{20}$/);
  await engine.close();
  poisoned.dispose();
});

test('what is too ambiguous fails alone', async () => {
  // Each level may be read in two ways that never meet again.
  const tree = (name: string) => ({ type: 'object', properties: { x: { anyOf: [{ $ref: '#/$defs/a' }, { $ref: '#/$defs/b' }, { const: 1 }] } }, required: ['x'], title: name });
  const constraint = await model.constrain({ jsonSchema: { $defs: { a: tree('a'), b: tree('b') }, $ref: '#/$defs/a' } });
  await using engine = new Engine(model);
  const requests = Array.from({ length: 8 }, (_, seed) => engine.generate(prompt(10), { constraint, temperature: 2, seed, maxTokens: 300 }));
  const other = engine.generate(prompt(10), { constraint: regex, seed: 1, temperature: 2 });
  const outcomes = await Promise.allSettled(requests.map(({ result }) => result));
  for (const outcome of outcomes) {
    if (outcome.status === 'rejected') expect(outcome.reason).toMatchObject({ code: 'UNSUPPORTED', message: expect.stringContaining('too ambiguous') });
    else if (outcome.value.choices[0]!.finishReason === 'stop') JSON.parse(outcome.value.choices[0]!.text);
  }
  expect((await other.result).choices[0]!.text).toMatch(/^([0-9a-f]{30}|(hello ){9})$/);
  await engine.close();
  await expectFree(model);
});
