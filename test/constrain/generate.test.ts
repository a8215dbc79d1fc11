// Constraints with a model behind: whatever a random one draws at temperature 2 fits.
import { Ajv2020 } from 'ajv/dist/2020.js';
import fc from 'fast-check';
import { type Constraint, type ConstraintSource, type TextModel } from '../../lib/index.js';
import { testDevice } from '../support/device.js';
import { tinyModel } from '../support/engine.js';
import { expectError } from '../support/errors.js';
import { temporaryDirectory } from '../support/files.js';
import { seeds } from '../support/operands.js';
import { schema as schemas } from '../support/schemas.js';
import { chatModel } from '../support/server.js';

const device = testDevice();
const root = temporaryDirectory();
let model: TextModel;
beforeAll(async () => {
  model = await chatModel(root, { device });
});
afterAll(() => model.dispose());

const SCHEMA = {
  type: 'object', additionalProperties: false, required: ['name', 'ages', 'kind'],
  properties: { name: { type: 'string', maxLength: 12 }, ages: { type: 'array', items: { type: 'integer', minimum: 0, maximum: 150 }, maxItems: 3 }, kind: { enum: ['hello', 'bell'] } },
};

async function write(constraint: Constraint, options: object = {}) {
  const generation = model.generate('hello', { constraint, temperature: 2, maxTokens: 250, ...options });
  await generation.text();
  return generation.result;
}

test('JSON of any schema', async () => {
  let complete = 0;
  const property = fc.asyncProperty(schemas, seeds, async (schema, seed) => {
    const { text, finishReason } = await write(await model.constrain({ jsonSchema: schema }), { seed });
    if (finishReason === 'length') return;
    complete++;
    const valid = new Ajv2020({ strict: false, validateFormats: false }).compile(schema);
    if (!valid(JSON.parse(text))) throw new Error(`${text} does not fit ${JSON.stringify(schema)}`);
  });
  await fc.assert(property, { numRuns: 25 });
  expect(complete).toBeGreaterThan(12);
});

test('texts of a regular expression', async () => {
  const constraint = await model.constrain({ regex: '(the|hello) [a-zé€]{1,8}(: \\d{2})?!' });
  for (let seed = 0; seed < 10; seed++) {
    const { text, finishReason, ids, usage } = await write(constraint, { seed });
    expect(text).toMatch(/^(the|hello) [a-zé€]{1,8}(: \d{2})?!$/u);
    expect(finishReason).toBe('stop');
    expect(ids).not.toContain(266); // it ends where it is whole
    expect(usage.completionTokens).toBe(ids.length);
  }
});

test('the end of the text may come only where the text may end', async () => {
  const constraint = await model.constrain({ regex: 'a+|b{40}' });
  const texts = [];
  for (let seed = 0; seed < 12; seed++) texts.push((await write(constraint, { seed, maxTokens: 60 })).text);
  for (const text of texts) expect(text).toMatch(/^(a+|b{40})$/);
  expect(texts.filter((text) => text.startsWith('b')).length).toBeGreaterThan(0);
  expect(texts.filter((text) => text.startsWith('a') && text.length < 60).length).toBeGreaterThan(0);
});

test('with penalties, filters and without chance', async () => {
  const constraint = await model.constrain({ jsonSchema: SCHEMA });
  const valid = new Ajv2020().compile(SCHEMA);
  for (const options of [{ temperature: 0 }, { topK: 3 }, { topP: 0.2, minP: 0.1 }, { repetitionPenalty: 3, frequencyPenalty: 2, presencePenalty: 2 }, { temperature: 0, frequencyPenalty: 2 }]) {
    const result = await write(constraint, options);
    expect(result.finishReason).toBe('stop');
    expect(valid(JSON.parse(result.text))).toBe(true);
  }
});

test('what maxTokens cuts off is told, and a stop string ends the text', async () => {
  const constraint = await model.constrain({ jsonSchema: SCHEMA });
  const whole = await write(constraint, { seed: 3 });
  const cut = await write(constraint, { seed: 3, maxTokens: 5 });
  expect(cut.finishReason).toBe('length');
  expect(whole.text.startsWith(cut.text)).toBe(true);
  const last = await write(constraint, { seed: 3, maxTokens: whole.ids.length });
  expect(last).toMatchObject({ text: whole.text, finishReason: 'stop' });
  const stopped = await write(constraint, { seed: 3, stop: '"ages"' });
  expect(stopped).toMatchObject({ finishReason: 'stop', text: whole.text.slice(0, whole.text.indexOf('"ages"')) });
});

test('a batch of which each row has its own constraint, or none', async () => {
  const constraint = await model.constrain({ regex: '[0-9]{8}' });
  const ids = model.encode('hello the bell');
  const start = async () => {
    const sequence = await model.createSequence();
    await model.prefill(sequence, ids.slice(0, -1));
    return sequence;
  };
  const draw = async (constrained: readonly boolean[]) => {
    const sequences = await Promise.all(constrained.map(start));
    const rows = sequences.map((sequence, i) => ({
      sequence, next: ids.at(-1)!, sampling: { temperature: 2, seed: 7 }, ...(constrained[i] && { progress: constraint.begin() }),
    }));
    using decoder = model.createDecoder(rows);
    const texts = rows.map((): number[] => []);
    for (let i = 0; i < 12; i++) (await decoder.step()).forEach((id, row) => texts[row]!.push(id));
    await Promise.all(sequences.map((sequence) => sequence.dispose()));
    return { texts, complete: rows.map((row) => row.progress?.complete) };
  };
  const together = await draw([true, false, true]);
  expect(together.complete).toEqual([true, undefined, true]);
  expect(model.decode(together.texts[0]!.slice(0, 8))).toMatch(/^\d{8}$/);
  expect(together.texts[2]).toEqual(together.texts[0]);
  expect([together.texts[1]]).toEqual((await draw([false])).texts);
});

describe('constraints', () => {
  test('are kept for whoever asks for the same', async () => {
    const [a, b] = await Promise.all([model.constrain({ jsonSchema: SCHEMA }), model.constrain({ jsonSchema: structuredClone(SCHEMA) })]);
    expect(a).toBe(b);
    expect(await model.constrain({ regex: 'a' })).not.toBe(a);
  });

  test.each<[unknown, string, string]>([
    [{}, 'INVALID_ARGUMENT', 'either jsonSchema or regex'], [{ regex: 'a', jsonSchema: {} }, 'INVALID_ARGUMENT', 'either jsonSchema or regex'],
    [{ regexp: 'a' }, 'INVALID_ARGUMENT', 'did you mean "regex"'], [{ regex: 5 }, 'INVALID_ARGUMENT', 'a string for regex'], [{ jsonSchema: 'x' }, 'INVALID_ARGUMENT', 'a JSON schema for jsonSchema'],
    [{ jsonSchema: { not: {} } }, 'UNSUPPORTED', '"not" at #'], [{ jsonSchema: { const: 5n } }, 'INVALID_ARGUMENT', 'BigInt'], [{ regex: 'a'.repeat(70_000) }, 'INVALID_ARGUMENT', 'at most 65536 characters'],
  ])('%#: what cannot be made is refused', async (source, code, message) => {
    await expectError(() => model.constrain(source as ConstraintSource), code as never, message);
  });

  test('are for one model, made by it, and not for texts that do not end', async () => {
    const constraint = await model.constrain({ regex: 'a' });
    const ids = await tinyModel(root, { device });
    await expectError(() => ids.constrain({ regex: 'a' }), 'UNSUPPORTED', 'tokenizer.json');
    await expectError(() => ids.generate([1], { constraint }), 'INVALID_ARGUMENT', 'another model');
    ids.dispose();
    const other = await chatModel(root, { device });
    await other.constrain({ regex: 'a' });
    other.dispose();
    await expectError(() => other.constrain({ regex: 'a' }), 'DISPOSED');
    await expectError(() => model.generate('a', { constraint: { regex: 'a' } as never }), 'INVALID_ARGUMENT', 'model.constrain()');
    await expectError(() => model.generate('a', { constraint, ignoreEos: true }), 'INVALID_ARGUMENT', 'ignoreEos');
    await expectError(() => constraint.begin().accept(98), 'INVALID_ARGUMENT', 'a token that fits');
  });
});
