import { readFileSync } from 'node:fs';
import { evaluate, loadModel, type TextModel } from '../lib/index.js';
import { maxDifference, testDevice } from './support/device.js';
import { golden, MODEL_DIR } from './support/golden.js';

// An exact f32 computation differs from the float64 reference by about 2e-4 at most; the logits reach 22.
const LOGITS = 1e-3;
const UTILITIES = 1e-4;
const TOKENS = 640;
const VOCABULARY = 320;
const CHUNKS = [TOKENS, 1, 7, 64, 127, 128, 129, 500];

let model: TextModel;
let data: Awaited<ReturnType<typeof golden>>;
beforeAll(async () => {
  data = await golden();
  model = await loadModel(MODEL_DIR, { device: testDevice(), cacheDtype: 'f32' });
});
afterAll(() => model.dispose());

const text = (row: number) => Array.from(data.ints('input_ids').subarray(row * TOKENS, (row + 1) * TOKENS));
const logits = (mode: string, row: number) =>
  data.floats(`logits_${mode}`).subarray(row * TOKENS * VOCABULARY, (row + 1) * TOKENS * VOCABULARY);

/** Logits after every token, read in chunks through the cache. */
async function read(ids: number[], chunk: number, threshold: number, reader = model): Promise<Float32Array> {
  const sequence = await reader.createSequence({ threshold });
  const all = new Float32Array(ids.length * VOCABULARY);
  for (let start = 0; start < ids.length; start += chunk) {
    all.set(await reader.stepAll(sequence, ids.slice(start, start + chunk)), start * VOCABULARY);
  }
  await sequence.dispose();
  return all;
}

describe.each([0, 1])('text %i', (row) => {
  test.each(CHUNKS)('hard logits in chunks of %i', async (chunk) => {
    expect(maxDifference(await read(text(row), chunk, 0.5), logits('hard', row))).toBeLessThan(LOGITS);
  });

  test.each([TOKENS, 1, 129])('dense logits in chunks of %i', async (chunk) => {
    expect(maxDifference(await read(text(row), chunk, 0), logits('dense', row))).toBeLessThan(LOGITS);
  });

  test.each(['soft', 'dense'] as const)('%s logits of the whole text at once', async (mode) => {
    expect(maxDifference(await model.gatedLogits(text(row), mode), logits(mode, row))).toBeLessThan(LOGITS);
  });

  test('utilities', async () => {
    const utilities = await model.utilities(text(row), { threshold: 0.5 });
    const perText = 8 * 2 * TOKENS;
    const expected = data.floats('utilities').subarray(row * perText, (row + 1) * perText);
    // Ours are [layer, token, head], the reference has [layer, head, token].
    const ours = new Float32Array(perText);
    for (let layer = 0; layer < 8; layer++)
      for (let token = 0; token < TOKENS; token++)
        for (let head = 0; head < 2; head++)
          ours[(layer * 2 + head) * TOKENS + token] = utilities[(layer * TOKENS + token) * 2 + head]!;
    expect(maxDifference(ours, expected)).toBeLessThan(UTILITIES);
  });

  test('log-probabilities', async () => {
    const ids = text(row);
    const reference = logits('hard', row);
    const sequence = await model.createSequence({ threshold: 0.5 });
    const scores = await model.score(sequence, ids);
    await sequence.dispose();
    const expected = ids.map((id, i) => {
      if (i === 0) return 0;
      const before = Array.from(reference.subarray((i - 1) * VOCABULARY, i * VOCABULARY));
      const largest = Math.max(...before);
      return before[id]! - largest - Math.log(before.reduce((sum, logit) => sum + Math.exp(logit - largest), 0));
    });
    expect(maxDifference(scores, expected)).toBeLessThan(LOGITS);
  });
});

test('soft loss', async () => {
  let total = 0;
  for (const row of [0, 1]) {
    const ids = text(row);
    const all = await model.gatedLogits(ids.slice(0, -1), 'soft');
    for (let i = 0; i + 1 < ids.length; i++) {
      const line = Array.from(all.subarray(i * VOCABULARY, (i + 1) * VOCABULARY));
      const largest = Math.max(...line);
      total += largest + Math.log(line.reduce((sum, logit) => sum + Math.exp(logit - largest), 0)) - line[ids[i + 1]!]!;
    }
  }
  expect(total / (2 * (TOKENS - 1))).toBeCloseTo(data.floats('soft_loss')[0]!, 4);
});

test.each([511, 1, 7, 64, 127, 128, 129, 500])('greedy tokens after a prompt in chunks of %i', async (chunk) => {
  const prompt = Array.from(data.ints('greedy_prompt'));
  const sequence = await model.createSequence({ threshold: 0.5 });
  for (let start = 0; start < prompt.length - 1; start += chunk) {
    await model.step([{ sequence, ids: prompt.slice(start, Math.min(start + chunk, prompt.length - 1)) }]);
  }
  using decoder = model.createDecoder([{ sequence, next: prompt.at(-1)! }]);
  const expected = data.ints('greedy_tokens');
  const margin = data.floats('greedy_margin');
  for (const [i, token] of expected.entries()) {
    const [id] = await decoder.step();
    if (margin[i]! <= 1e-2) break; // from here on the reference itself may go either way
    expect({ i, id }).toEqual({ i, id: token });
  }
  await sequence.dispose();
});

// Keys and values keep 4 significant bits of every number. Measured: docs/measurements.md.
describe('an fp8 cache', () => {
  let rounded: TextModel;
  beforeAll(async () => {
    rounded = await loadModel(MODEL_DIR, { device: testDevice(), cacheDtype: 'fp8' });
  });
  afterAll(() => rounded.dispose());

  const mean = (a: Float32Array, b: Float32Array) => a.reduce((sum, value, i) => sum + Math.abs(value - b[i]!), 0) / a.length;
  const likeliest = (all: Float32Array, token: number) => {
    const line = all.subarray(token * VOCABULARY, (token + 1) * VOCABULARY);
    return line.indexOf(Math.max(...line));
  };

  test.each([0, 1])('logits of text %i in chunks of any size', async (row) => {
    const expected = logits('hard', row);
    for (const chunk of [TOKENS, 129]) {
      const all = await read(text(row), chunk, 0.5, rounded);
      expect(maxDifference(all, expected)).toBeLessThan(4);
      expect(mean(all, expected)).toBeLessThan(0.15);
      const same = Array.from({ length: TOKENS }, (_, token) => likeliest(all, token) === likeliest(expected, token));
      expect(same.filter(Boolean).length / TOKENS).toBeGreaterThan(0.95);
    }
  });

  test.each([0, 0.5, 0.7])('the loss at threshold %d', async (threshold) => {
    const ids = model.encode(readFileSync('models/sample.py', 'utf8')).slice(0, 2500);
    const exact = await evaluate(model, ids, { threshold });
    const { loss, cache } = await evaluate(rounded, ids, { threshold });
    expect(Math.abs(loss / exact.loss - 1)).toBeLessThan(0.01);
    expect(cache.bytes / exact.cache.bytes).toBeCloseTo((64 + 1) / 256, 2);
    expect(cache.density).toBeCloseTo(exact.cache.density, 2);
  });
});
