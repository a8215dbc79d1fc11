// What is built on a model works on exported ones, and the event loop stays free.
import { setImmediate as turn } from 'node:timers/promises';
import { Engine, loadModel as loadNative, type Request, type TextModel } from '../../lib/index.js';
import { exportOnnx } from '../../lib/onnx/index.js';
import { loadModel, ROUTES } from '../../lib/onnxruntime/index.js';
import { temporaryDirectory } from '../support/files.js';
import { golden, MODEL_DIR } from '../support/golden.js';

const dir = temporaryDirectory();
let native: TextModel;
let data: Awaited<ReturnType<typeof golden>>;
beforeAll(async () => {
  await exportOnnx(MODEL_DIR, dir);
  data = await golden();
  native = await loadNative(MODEL_DIR, { device: 'cpu', cacheDtype: 'f32' });
});
afterAll(() => native.dispose());

/** The greedy prompt of the golden data, and the tokens after it that no rounding can change. */
function greedy(): { prompt: number[]; tokens: number[] } {
  const sure = data.floats('greedy_margin').findIndex((margin) => margin <= 1e-2);
  return { prompt: Array.from(data.ints('greedy_prompt')), tokens: Array.from(data.ints('greedy_tokens')).slice(0, sure < 0 ? 64 : sure) };
}

const idsOf = async ({ result }: Request) => (await result).choices[0]!.tokens.map(({ id }) => id);

describe.each(ROUTES)('%s', (route) => {
  let model: TextModel;
  beforeAll(async () => {
    model = await loadModel(dir, { route });
  });
  afterAll(() => model.dispose());

  test('an engine answers many requests, each as if it were alone', async () => {
    const { prompt, tokens } = greedy();
    const engine = new Engine(model, { maxSequences: 4 });
    const others = [1, 2, 3, 4, 5].map((seed) => engine.generate(prompt.slice(0, 60 * seed), { maxTokens: 30, temperature: 1, seed, ignoreEos: true, repetitionPenalty: 1.1 }));
    const sure = [0, 1].map(() => engine.generate(prompt, { maxTokens: tokens.length, ignoreEos: true, logprobs: 1 }));
    for (const request of sure) expect(await idsOf(request)).toEqual(tokens);
    for (const request of others) expect(await idsOf(request)).toHaveLength(30);
    await engine.close();
    expect((await model.cache.stats()).usedPages).toBe(0);
  });

  test('a session reads its text once, and states can be saved, restored and forked', async () => {
    const session = model.createSession();
    const first = model.generate('import os\n', { session, maxTokens: 5, ignoreEos: true });
    const text = `import os\n${await first.text()}`;
    const second = model.generate(text, { session, maxTokens: 5, ignoreEos: true });
    await second.text();
    expect((await second.result).usage.cachedTokens).toBeGreaterThan(10);
    const copy = await session.sequence!.fork();
    const restored = await model.cache.restoreSequence(await copy.save());
    const [[a], [b]] = [await model.step([{ sequence: copy, ids: [5] }]), await model.step([{ sequence: restored, ids: [5] }])];
    expect(a).toEqual(b);
    for (const sequence of [copy, restored]) await sequence.dispose();
    await session.dispose();
  });

  test('sampled text is that of the native model', async () => {
    // Another random number would show at once; logits differ by rounding only.
    const options = { maxTokens: 20, temperature: 0.7, topK: 5, seed: 11, ignoreEos: true };
    expect(await model.generate('def read(path):\n', options).text()).toBe(await native.generate('def read(path):\n', options).text());
  });

  test('the event loop turns while a step runs, and an abort ends the step without a trace', async () => {
    const sequence = await model.createSequence();
    const ids = Array.from({ length: 2000 }, (_, i) => (i * 31) % 256);
    await model.step([{ sequence, ids }]);
    const { usedPages } = await model.cache.stats();
    const reason = new Error('enough');
    /** Aborts a step after 20 turns of the event loop; false where it has ended before, on a machine that stood still. */
    const abort = async (): Promise<boolean> => {
      const fork = await sequence.fork();
      const controller = new AbortController();
      const step = model.step([{ sequence: fork, ids }], controller.signal).then(() => undefined, (error: unknown) => error);
      for (let i = 0; i < 20; i++) await turn();
      controller.abort(reason);
      const error = await step;
      if (error) expect([error, (await fork.stats()).length]).toEqual([reason, 2000]);
      await fork.dispose();
      return error !== undefined;
    };
    let aborted = false;
    for (let attempts = 0; !aborted && attempts < 10; attempts++) aborted = await abort();
    expect(aborted).toBe(true);
    expect((await model.cache.stats()).usedPages).toBe(usedPages);
    expect((await model.step([{ sequence, ids: [1] }]))[0]!.every(Number.isFinite)).toBe(true);
    await sequence.dispose();
  });
});
