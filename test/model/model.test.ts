import { readFileSync } from 'node:fs';
import { totalmem } from 'node:os';
import { evaluate, loadModel, type SpkvError, type TextModel } from '../../lib/index.js';
import type { LlamaNetwork } from '../../lib/model/llama-network.js';
import { maxDifference, testDevice } from '../support/device.js';
import { expectError } from '../support/errors.js';
import { MODEL_DIR } from '../support/golden.js';

const device = testDevice();
const text = [0, ...readFileSync('models/sample.py')];
let model: TextModel;
beforeAll(async () => {
  model = await loadModel(MODEL_DIR, { device, slack: 70, chunk: 200 });
});
afterAll(() => model.dispose());

const weightsOf = ({ network }: TextModel) => (network as LlamaNetwork).llama.weights;

/** Reads a prompt and decodes greedily; everything that a sequence does alone. */
async function alone(ids: number[], steps: number): Promise<{ logits: Float32Array; tokens: number[] }> {
  const sequence = await model.createSequence();
  const logits = await model.prefill(sequence, ids);
  using decoder = model.createDecoder([{ sequence, next: 10 }]);
  const tokens: number[] = [];
  for (let i = 0; i < steps; i++) tokens.push((await decoder.step())[0]!);
  await sequence.dispose();
  return { logits, tokens };
}

/** The same bit for bit; on a GPU, whose libraries choose the order of sums by the size of a step, to rounding. */
function expectAgreement(actual: Float32Array, expected: Float32Array): void {
  if (device.name === 'cpu') expect(actual).toEqual(expected);
  else expect(maxDifference(actual, expected)).toBeLessThan(1e-3);
}

test('a sequence gives the same in any company', async () => {
  const prompts = [text.slice(0, 700), text.slice(500, 530), text.slice(100, 101), text.slice(0, 129), text.slice(1000, 1400)];
  const single = [];
  for (const prompt of prompts) single.push(await alone(prompt.slice(0, 200), 12));

  const sequences = await Promise.all(prompts.map(() => model.createSequence()));
  const together = await model.step(prompts.map((ids, i) => ({ sequence: sequences[i]!, ids: ids.slice(0, 200) })));
  for (const [i, logits] of together.entries()) expectAgreement(logits, single[i]!.logits);
  using decoder = model.createDecoder(sequences.map((sequence) => ({ sequence, next: 10 })));
  const rows: number[][] = prompts.map(() => []);
  for (let step = 0; step < 12; step++) (await decoder.step()).forEach((id, row) => rows[row]!.push(id));
  expect(rows).toEqual(single.map(({ tokens }) => tokens));
  await Promise.all(sequences.map((sequence) => sequence.dispose()));
});

test('prompts and single tokens mix in one step', async () => {
  const [a, b] = [await model.createSequence(), await model.createSequence()];
  await model.prefill(a, text.slice(0, 300));
  const lone = await model.createSequence();
  await model.prefill(lone, text.slice(0, 300));
  const [expected] = await model.step([{ sequence: lone, ids: [50] }]);
  const [fromA] = await model.step([{ sequence: a, ids: [50] }, { sequence: b, ids: text.slice(0, 150) }]);
  expectAgreement(fromA!, expected!);
  expect([a.length, b.length]).toEqual([301, 150]);
  await Promise.all([a, b, lone].map((sequence) => sequence.dispose()));
});

test('fork, rewind, save and restore change nothing', async () => {
  const sequence = await model.createSequence();
  await model.prefill(sequence, text.slice(0, 400));
  const copy = await sequence.fork();
  const restored = await model.cache.restoreSequence(await sequence.save());
  await model.step([{ sequence, ids: text.slice(400, 460) }]);
  await sequence.rewind(60);
  expect([sequence.length, copy.length, restored.length]).toEqual([400, 400, 400]);
  const next = [{ ids: text.slice(400, 433) }];
  const results = [];
  for (const one of [copy, restored, sequence]) results.push(...(await model.step([{ sequence: one, ids: next[0]!.ids }])));
  expect(results[1]).toEqual(results[0]);
  expect(results[2]).toEqual(results[0]);
  await Promise.all([sequence, copy, restored].map((one) => one.dispose()));
});

test('poisoned unused memory changes nothing', async () => {
  const expected = await alone(text.slice(0, 500), 20);
  const trash = await model.createSequence({ threshold: 0 });
  await model.prefill(trash, text.slice(0, 900));
  await trash.dispose();
  await model.cache.poison();
  expect(await alone(text.slice(0, 500), 20)).toEqual(expected);
});

test('the threshold belongs to the sequence', async () => {
  const kept = async (threshold: number) => {
    const sequence = await model.createSequence({ threshold });
    await model.prefill(sequence, text.slice(0, 600));
    const stats = await sequence.stats();
    await sequence.dispose();
    return stats.kept.reduce((sum, count) => sum + count, 0);
  };
  const counts = [await kept(0), await kept(0.5), await kept(0.9), await kept(1.01)];
  expect(counts[0]).toBe(16 * (600 - 128));
  expect(counts[3]).toBe(0);
  expect(counts[1]).toBeGreaterThan(counts[2]!);
  expect(counts[2]).toBeGreaterThan(0);
});

test('the pool gives everything back, and says so', async () => {
  const before = await model.cache.stats();
  const sequences = await Promise.all(Array.from({ length: 5 }, () => model.createSequence()));
  for (const sequence of sequences) await model.prefill(sequence, text.slice(0, 300));
  const during = await model.cache.stats();
  const held = (await Promise.all(sequences.map((sequence) => sequence.stats()))).reduce((sum, { pages }) => sum + pages, 0);
  expect(during.usedPages - before.usedPages).toBe(held);
  expect(during.sequences - before.sequences).toBe(5);
  await Promise.all(sequences.map((sequence) => sequence.dispose()));
  expect(await model.cache.stats()).toEqual({ ...before, peakPages: during.peakPages });
});

describe('a pool that is too small', () => {
  test('refuses a step before anything changes, and takes it again when there is room', async () => {
    const pageBytes = 2 * 64 * 64 * 2;
    using small = await loadModel(MODEL_DIR, { device, kvMemory: 90 * pageBytes });
    const big = await small.createSequence({ threshold: 0 });
    await small.prefill(big, text.slice(0, 190));
    const other = await small.createSequence({ threshold: 1.01 });
    const before = { pool: await small.cache.stats(), sequence: await big.stats() };
    await expectError(() => small.step([{ sequence: big, ids: text.slice(190, 390) }]), 'POOL_EXHAUSTED', /pages/);
    expect(await small.cache.stats()).toEqual(before.pool);
    expect(await big.stats()).toEqual(before.sequence);
    expect(big.length).toBe(190);

    using decoder = small.createDecoder([{ sequence: big, next: text[190]! }]);
    const untilItFails = async () => {
      for (let steps = 0; steps < 400; steps++) await decoder.step();
    };
    await expectError(untilItFails, 'POOL_EXHAUSTED', /pages/);
    const { length } = big;
    await other.dispose();
    await decoder.step();
    expect(big.length).toBe(length + 1);
    await big.dispose();
  });

  test('that does not hold one window is refused when the model is loaded', async () => {
    await expectError(() => loadModel(MODEL_DIR, { device, kvMemory: 1000 }), 'INVALID_ARGUMENT', 'kvMemory');
  });
});

test('an abort ends a prefill with its reason and leaves the sequence whole', async () => {
  const sequence = await model.createSequence();
  const reason = new Error('enough');
  const controller = new AbortController();
  const done = model.prefill(sequence, text.slice(0, 3000), { signal: controller.signal, onProgress: () => controller.abort(reason) });
  await expect(done).rejects.toBe(reason);
  const { length } = await sequence.stats();
  expect(length).toBe(sequence.length);
  expect(length).toBeLessThan(3000);
  const [logits] = await model.step([{ sequence, ids: [5] }]);
  expect(logits!.every(Number.isFinite)).toBe(true);
  await sequence.dispose();
});

test('a weight that is not a number is found, and names the layer', async () => {
  const embedding = weightsOf(model).layers[2]!.inputNorm;
  const nan = device.tensor('bf16', embedding.shape);
  nan.write(new Uint16Array(embedding.size).fill(0x7fc0));
  weightsOf(model).layers[2]!.inputNorm = nan;
  const sequence = await model.createSequence();
  try {
    await expectError(() => model.step([{ sequence, ids: [1, 2, 3] }]), 'NON_FINITE', /layer 2/i);
    expect((await sequence.stats()).length).toBe(0);
  } finally {
    weightsOf(model).layers[2]!.inputNorm = embedding;
  }
  expect((await model.step([{ sequence, ids: [1, 2, 3] }]))[0]!.every(Number.isFinite)).toBe(true);
  await sequence.dispose();
});

test('the pool is a quarter of the memory, and on a GPU most of what the weights leave free', async () => {
  using target = testDevice();
  const before = target.freeMemory;
  using fresh = await loadModel(MODEL_DIR, { device: target });
  const { capacityPages, pageBytes } = await fresh.cache.stats();
  // Others may have freed some of a GPU's memory meanwhile.
  const free = before && Math.max(before, target.freeMemory! + capacityPages * pageBytes);
  expect(pageBytes).toBe(target.pageBytes(fresh.config.headDim, fresh.cache.dtype));
  if (free === null) expect(capacityPages).toBe(Math.floor(totalmem() / 4 / pageBytes));
  else expect(capacityPages * pageBytes).toBeLessThanOrEqual(0.9 * free);
  expect(capacityPages * pageBytes).toBeGreaterThan(0.2 * (free ?? totalmem()));
});

test('a model that is disposed holds no weights any more', async () => {
  const fresh = await loadModel(MODEL_DIR, { device });
  const sequence = await fresh.createSequence();
  fresh.dispose();
  await sequence.dispose(); // its pages have gone with the cache
  const { embedding, finalNorm, head, layers } = weightsOf(fresh);
  const [first] = layers;
  for (const tensor of [embedding, finalNorm, head, first!.qkv, first!.qkvBias!, first!.predictor!.weight, first!.down]) {
    await expectError(() => tensor.read(), 'DISPOSED');
  }
});

describe('bad arguments', () => {
  test.each<[string, string, () => unknown]>([
    ['an unknown option', 'INVALID_ARGUMENT', () => loadModel(MODEL_DIR, { thread: 2 } as never)],
    ['a device that is not there', 'DEVICE', () => loadModel(MODEL_DIR, { device: 'cuda:9999' })],
    ['a misspelt device', 'INVALID_ARGUMENT', () => loadModel(MODEL_DIR, { device: 'cpuu' })],
    ['no threads', 'INVALID_ARGUMENT', () => loadModel(MODEL_DIR, { threads: 0 })],
    ['a cache type', 'INVALID_ARGUMENT', () => loadModel(MODEL_DIR, { device, cacheDtype: 'f16' as never })],
    ['a negative slack', 'INVALID_ARGUMENT', () => loadModel(MODEL_DIR, { device, slack: -1 })],
    ['memory of no size, before anything is read', 'INVALID_ARGUMENT', () => loadModel('no/such/model', { kvMemory: NaN })],
    ['options of a device that is open', 'INVALID_ARGUMENT', () => loadModel(MODEL_DIR, { device, threads: 1 })],
    ['a device that is none', 'INVALID_ARGUMENT', () => loadModel(MODEL_DIR, { device: {} as never })],
    ['a signal that is none', 'INVALID_ARGUMENT', () => loadModel(MODEL_DIR, { device, signal: {} as never })],
    ['a callback that is none', 'INVALID_ARGUMENT', () => loadModel(MODEL_DIR, { device, onProgress: 1 as never })],
    ['a chunk of nothing', 'INVALID_ARGUMENT', () => loadModel(MODEL_DIR, { device, chunk: 0 })],
    ['no directory', 'FILE', () => loadModel('no/such/model', { device })],
    ['a directory that is no string', 'INVALID_ARGUMENT', () => loadModel(7 as never)],
    ['an aborted signal', 'AbortError', () => loadModel(MODEL_DIR, { device, signal: AbortSignal.abort() })],
  ])('loadModel: %s', async (_, code, run) => {
    await expect(Promise.resolve().then(run)).rejects.toMatchObject(code === 'AbortError' ? { name: code } : { code });
  });

  test.each<[string, string, (sequence: Awaited<ReturnType<TextModel['createSequence']>>) => unknown]>([
    ['a threshold', 'INVALID_ARGUMENT', () => model.createSequence({ threshold: NaN })],
    ['a misspelt threshold', 'INVALID_ARGUMENT', () => model.createSequence({ treshold: 1 } as never)],
    ['a misspelt threshold of utilities', 'INVALID_ARGUMENT', () => model.utilities([1], { treshold: 1 } as never)],
    ['a misspelt threshold of an evaluation', 'INVALID_ARGUMENT', () => evaluate(model, [1, 2], { treshold: 1 } as never)],
    ['a misspelt option of prefill', 'INVALID_ARGUMENT', (sequence) => model.prefill(sequence, [1], { onprogress: () => {} } as never)],
    ['a signal that is none', 'INVALID_ARGUMENT', (sequence) => model.prefill(sequence, [1], { signal: true as never })],
    ['a signal of a step that is none', 'INVALID_ARGUMENT', (sequence) => model.step([{ sequence, ids: [1] }], 5 as never)],
    ['a callback that is none', 'INVALID_ARGUMENT', (sequence) => model.score(sequence, [1], { onProgress: 'x' as never })],
    ['an input that is none', 'INVALID_ARGUMENT', () => model.step([null as never])],
    ['a row that is none', 'INVALID_ARGUMENT', () => model.createDecoder([7 as never])],
    ['a misspelt part of a row', 'INVALID_ARGUMENT', (sequence) => model.createDecoder([{ sequence, next: 1, samplng: {} } as never])],
    ['no tokens', 'INVALID_ARGUMENT', (sequence) => model.prefill(sequence, [])],
    ['a token beyond the vocabulary', 'OUT_OF_RANGE', (sequence) => model.prefill(sequence, [1, 320])],
    ['a token that is no integer', 'OUT_OF_RANGE', (sequence) => model.prefill(sequence, [1.5])],
    ['ids that are none', 'INVALID_ARGUMENT', (sequence) => model.prefill(sequence, 'abc' as never)],
    ['no inputs', 'INVALID_ARGUMENT', () => model.step([])],
    ['no sequence', 'INVALID_ARGUMENT', () => model.step([{ sequence: undefined as never, ids: [1] }])],
    ['one sequence twice', 'INVALID_ARGUMENT', (sequence) => model.step([{ sequence, ids: [1] }, { sequence, ids: [2] }])],
    ['a decoder without rows', 'INVALID_ARGUMENT', () => model.createDecoder([])],
    ['a decoder with a bad token', 'OUT_OF_RANGE', (sequence) => model.createDecoder([{ sequence, next: -1 }])],
    ['a decoder with a bad setting', 'INVALID_ARGUMENT', (sequence) => model.createDecoder([{ sequence, next: 1, sampling: { topP: 2 } }])],
    ['a mode', 'INVALID_ARGUMENT', () => model.gatedLogits([1], 'hard' as never)],
    ['too long a rewind', 'OUT_OF_RANGE', (sequence) => sequence.rewind(1)],
    ['a rewind of half a token', 'INVALID_ARGUMENT', (sequence) => sequence.rewind(0.5)],
    ['a damaged save', 'FILE', async (sequence) => {
      const saved = await sequence.save();
      saved[40]! ^= 1;
      return model.cache.restoreSequence(saved);
    }],
    ['a save that is none', 'INVALID_ARGUMENT', () => model.cache.restoreSequence('x' as never)],
  ])('%s', async (_, code, run) => {
    const sequence = await model.createSequence();
    await expectError(async () => run(sequence), code as SpkvError['code']);
    expect((await sequence.stats()).length).toBe(0);
    await sequence.dispose();
  });

  test('a disposed sequence', async () => {
    const sequence = await model.createSequence();
    await sequence.dispose();
    await sequence.dispose();
    await expectError(() => model.step([{ sequence, ids: [1] }]), 'DISPOSED');
    await expectError(() => sequence.stats(), 'DISPOSED');
    await expectError(() => sequence.fork(), 'DISPOSED');
  });
});
