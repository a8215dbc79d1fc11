// Both routes against the golden data that the native model is tested with, however a text is cut and batched.
import { join } from 'node:path';
import type { TextModel } from '../../lib/index.js';
import { exportOnnx } from '../../lib/onnx/index.js';
import { loadModel, ROUTES } from '../../lib/onnxruntime/index.js';
import { maxDifference } from '../support/device.js';
import { expectError } from '../support/errors.js';
import { temporaryDirectory } from '../support/files.js';
import { golden, MODEL_DIR } from '../support/golden.js';

// As in golden.test.ts.
const LOGITS = 1e-3;
const UTILITIES = 1e-4;
const TOKENS = 640;
const VOCABULARY = 320;

const dir = temporaryDirectory();
let data: Awaited<ReturnType<typeof golden>>;
beforeAll(async () => {
  await exportOnnx(MODEL_DIR, dir);
  data = await golden();
});

const text = (row: number) => Array.from(data.ints('input_ids').subarray(row * TOKENS, (row + 1) * TOKENS));
const expected = (mode: string, row: number, from: number, to: number) =>
  data.floats(`logits_${mode}`).subarray((row * TOKENS + from) * VOCABULARY, (row * TOKENS + to) * VOCABULARY);

describe.each(ROUTES)('%s', (route) => {
  let model: TextModel;
  beforeAll(async () => {
    model = await loadModel(dir, { route, onWarning: (message) => { throw new Error(message); } });
  });
  afterAll(() => model.dispose());

  /** The largest error of the logits of the first `length` tokens, read in chunks. */
  async function error(row: number, chunk: number, mode: 'hard' | 'dense', length = TOKENS): Promise<number> {
    const sequence = await model.createSequence({ threshold: mode === 'hard' ? 0.5 : 0 });
    let worst = 0;
    for (let start = 0; start < length; start += chunk) {
      const end = Math.min(start + chunk, length);
      worst = Math.max(worst, maxDifference(await model.stepAll(sequence, text(row).slice(start, end)), expected(mode, row, start, end)));
    }
    await sequence.dispose();
    return worst;
  }

  test.each([TOKENS, 7, 64, 127, 128, 129, 500])('hard logits in chunks of %i', async (chunk) => {
    expect(await error(0, chunk, 'hard')).toBeLessThan(LOGITS);
  });

  test('hard logits token by token, beyond the window', async () => {
    expect(await error(0, 1, 'hard', 300)).toBeLessThan(LOGITS);
  });

  test('hard and dense logits of the other text', async () => {
    expect(await error(1, 129, 'hard')).toBeLessThan(LOGITS);
    expect(await error(1, 200, 'dense')).toBeLessThan(LOGITS);
  });

  test('a batch of prompts and single tokens gives every sequence its own', async () => {
    const sequences = [await model.createSequence({ threshold: 0.5 }), await model.createSequence({ threshold: 0.5 }), await model.createSequence({ threshold: 0 })];
    const cuts = [[0, 200, 201, 202, 400], [0, 1, 150, 151, 640], [0, 100, 330, 340, 341]];
    for (let step = 1; step < 5; step++) {
      const inputs = sequences.map((sequence, i) => ({ sequence, ids: text(i % 2).slice(cuts[i]![step - 1], cuts[i]![step]) }));
      const all = await model.step(inputs);
      for (const [i, logits] of all.entries()) {
        const end = cuts[i]![step]!;
        expect(maxDifference(logits, expected(i === 2 ? 'dense' : 'hard', i % 2, end - 1, end))).toBeLessThan(LOGITS);
      }
    }
    for (const sequence of sequences) await sequence.dispose();
  });

  test('greedy tokens', async () => {
    const prompt = Array.from(data.ints('greedy_prompt'));
    const sequence = await model.createSequence({ threshold: 0.5 });
    await model.prefill(sequence, prompt.slice(0, -1));
    using decoder = model.createDecoder([{ sequence, next: prompt.at(-1)! }]);
    for (const [i, token] of data.ints('greedy_tokens').entries()) {
      const [id] = await decoder.step();
      if (data.floats('greedy_margin')[i]! <= 1e-2) break; // from here on the reference itself may go either way
      expect({ i, id }).toEqual({ i, id: token });
    }
    await sequence.dispose();
  });

  test('utilities', async () => {
    const utilities = await model.utilities(text(0), { threshold: 0.5 });
    const { layers, kvHeads } = model.config;
    const reference = data.floats('utilities'); // [text, layer, head, token]; ours are [layer, token, head]
    const ours = Float32Array.from({ length: layers * kvHeads * TOKENS }, (_, i) => {
      const [layer, head, token] = [Math.floor(i / (kvHeads * TOKENS)), Math.floor(i / TOKENS) % kvHeads, i % TOKENS];
      return utilities[(layer * TOKENS + token) * kvHeads + head]!;
    });
    expect(maxDifference(ours, reference.subarray(0, ours.length))).toBeLessThan(UTILITIES);
  });

  test('log-probabilities', async () => {
    const ids = text(0);
    const sequence = await model.createSequence({ threshold: 0.5 });
    const scores = await model.score(sequence, ids);
    await sequence.dispose();
    const wanted = ids.map((id, i) => {
      if (i === 0) return 0;
      const before = Array.from(expected('hard', 0, i - 1, i));
      const largest = Math.max(...before);
      return before[id]! - largest - Math.log(before.reduce((sum, logit) => sum + Math.exp(logit - largest), 0));
    });
    expect(maxDifference(scores, wanted)).toBeLessThan(LOGITS);
  });

  test('attention without the cache is refused', async () => {
    await expectError(() => model.gatedLogits([1, 2, 3]), 'UNSUPPORTED', 'through the cache');
  });
});

// Quantised graphs round activations, too, and how depends on the rows that are multiplied at once.
test.each([['f16', 1e-3], ['int8', 0.1], ['int4', 0.1]] as const)('weights in %s give the same on both routes, in other chunks', async (dtype, mean) => {
  const out = join(dir, dtype);
  await exportOnnx(MODEL_DIR, out, { dtype });
  const all: Float32Array[] = [];
  for (const [i, route] of ROUTES.entries()) {
    using model = await loadModel(out, { route });
    const sequence = await model.createSequence({ threshold: 0.5 });
    const chunk = [300, 97][i]!;
    const pieces: Float32Array[] = [];
    for (let start = 0; start < 300; start += chunk) pieces.push(await model.stepAll(sequence, text(0).slice(start, Math.min(300, start + chunk))));
    all.push(Float32Array.from(pieces.flatMap((piece) => [...piece])));
  }
  const [a, b] = all as [Float32Array, Float32Array];
  expect(a.reduce((sum, value, i) => sum + Math.abs(value - b[i]!), 0) / a.length).toBeLessThan(mean);
});
