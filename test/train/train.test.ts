import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { readSafetensorsHeader } from '../../lib/checkpoint/safetensors.js';
import { loadModel } from '../../lib/index.js';
import { type LogRecord, type StepRecord, train, type TrainEvent, type ValidationRecord } from '../../lib/train/index.js';
import { expectError } from '../support/errors.js';
import { temporaryDirectory } from '../support/files.js';
import { tinyRun, writeTinyTask } from '../support/tiny-task.js';

const root = temporaryDirectory();
const task = await writeTinyTask(root);
let count = 0;
const fresh = () => join(root, `run-${count++}`);
const bytesOf = (path: string) => readFileSync(path);
const logOf = (out: string) => readFileSync(join(out, 'log.jsonl'), 'utf8').trim().split('\n').map((line) => JSON.parse(line) as LogRecord);
/** What a step was about, without how long it took. */
const numbers = (records: LogRecord[]) =>
  records.filter((record): record is StepRecord => record.kind === 'step').map((record) => ({ ...record, seconds: 0, tokensPerSecond: 0, utilisation: 0 }));

/** Aborts a run as soon as an event fits. */
function stopAt(fits: (event: TrainEvent) => boolean) {
  const controller = new AbortController();
  return { signal: controller.signal, onProgress: (event: TrainEvent) => fits(event) && controller.abort(new Error('stop')) };
}

const whole = fresh();
const result = await train(tinyRun(task, whole));

describe('a run', () => {
  test('ends with a model that loads, and tells of it', async () => {
    expect(result).toMatchObject({ step: 6, steps: 6, finished: true, out: whole, model: join(whole, 'model'), checkpoint: join(whole, 'step-00000006') });
    using model = await loadModel(result.model!, { device: 'cpu' });
    expect(model.dense).toBe(false);
    expect(model.config.spkv).toEqual({ window: 8, threshold: 0.5, predictorHiddenSize: 8, predictorActivation: 'silu' });
    expect(readdirSync(result.model!).sort()).toEqual(['config.json', 'model.safetensors']);
  });

  test('writes every setting into the config', () => {
    const { spkv } = JSON.parse(readFileSync(join(whole, 'model/config.json'), 'utf8')) as { spkv: { training: Record<string, unknown> } };
    expect(spkv.training).toMatchObject({
      step: 6, tokens: 6 * 4 * 48, steps: 6, sequence_length: 48, batch_size: 4, learning_rate: 1e-2, warmup_steps: 1, decay: 'cosine', learning_rate_floor: 0.05,
      predictor_rate: 5, weight_decay: 0.1, beta1: 0.9, beta2: 0.95, clip: 1, soft_share: 0.75, anneal_steps: 500, predictor_bias: 5, packing: 'documents', seed: 3,
    });
  });

  test('follows the schedule: warm-up, soft, then alpha rises', () => {
    expect(numbers(logOf(whole)).map(({ step, mode, alpha }) => [step, mode, alpha])).toEqual([
      [1, 'soft', 0], [2, 'soft', 0], [3, 'soft', 0], [4, 'soft', 0], [5, 'annealed', 0], [6, 'annealed', 1],
    ]);
  });

  test('keeps the last checkpoints and the best', () => {
    const steps = readdirSync(whole).filter((name) => name.startsWith('step-')).map((name) => Number(name.slice(5)));
    expect(steps.slice(-2)).toEqual([4, 6]);
    const { best } = JSON.parse(readFileSync(join(whole, 'step-00000006/training.json'), 'utf8')) as { best: { step: number } };
    expect(steps).toContain(best.step);
  });

  test('measures soft and hard gates, densities of all heads, and histograms of their utilities', () => {
    const first = logOf(whole).find((record): record is ValidationRecord => record.kind === 'validation');
    expect(first!.hard.map(({ threshold }) => threshold)).toEqual([0.3, 0.5, 0.7]);
    expect(first!.densities!.map((heads) => heads.length)).toEqual([2, 2]);
    for (const histogram of first!.histograms!.flat()) {
      expect(histogram).toHaveLength(20);
      expect(histogram.reduce((sum, share) => sum + share, 0)).toBeCloseTo(1, 6);
      expect(histogram.every((share) => share >= 0)).toBe(true);
    }
  });

  test('writes a report with all curves that needs nothing else', () => {
    const page = readFileSync(join(whole, 'report.html'), 'utf8');
    for (const part of ['training', 'validation, soft', 'validation, τ 0.5', 'learning rate', 'alpha', 'layer 1, 1, step 6:', 'utility from 0.95', 'predictorHiddenSize']) expect(page).toContain(part);
    expect(page).not.toMatch(/<script|https?:\/\/|NaN|undefined/);
  });
});

describe('resuming', () => {
  test.each([1, 3, 5])('after a stop at step %i gives the same bits as a run that never stopped', async (stop) => {
    const out = fresh();
    const stopped = await train({ ...tinyRun(task, out), ...stopAt((event) => event.kind === 'step' && event.step === stop) });
    expect(stopped).toMatchObject({ step: stop, finished: false, model: null, checkpoint: join(out, `step-0000000${stop}`) });
    const resumed = await train({ out, resume: true, device: 'cpu', threads: 2, peakFlops: 1e9 });
    expect(resumed).toMatchObject({ step: 6, finished: true });
    for (const file of ['model/model.safetensors', 'step-00000006/training.safetensors']) {
      expect(bytesOf(join(out, file)).equals(bytesOf(join(whole, file)))).toBe(true);
    }
    expect(numbers(logOf(out))).toEqual(numbers(logOf(whole)));
  });

  test('a stop in the middle of a step, of validating, or right at the start loses nothing', async () => {
    for (const fits of [(event: TrainEvent) => event.kind === 'start', (event: TrainEvent) => event.kind === 'validation']) {
      const out = fresh();
      expect((await train({ ...tinyRun(task, out), ...stopAt(fits) })).finished).toBe(false);
      await train({ out, resume: true, device: 'cpu', threads: 2, peakFlops: 1e9 });
      expect(bytesOf(join(out, 'model/model.safetensors')).equals(bytesOf(join(whole, 'model/model.safetensors')))).toBe(true);
    }
  });

  test('a finished run has nothing left to do', async () => {
    expect(await train({ out: whole, resume: true, device: 'cpu', threads: 2, peakFlops: 1e9 })).toMatchObject({ step: 6, finished: true });
  });

  test('what decides the result cannot change, what does not can', async () => {
    const out = fresh();
    await train({ ...tinyRun(task, out), ...stopAt((event) => event.kind === 'step') });
    await expectError(() => train({ out, resume: true, learningRate: 1 }), 'INVALID_ARGUMENT', 'Expected 0.01 for learningRate, with which the run began, but received 1');
    await expectError(() => train({ out, resume: true, model: 'other' }), 'INVALID_ARGUMENT', 'for model, with which the run began');
    expect((await train({ out, resume: true, device: 'cpu', threads: 2, keep: 1, learningRate: 0.01, saveEvery: 3 })).finished).toBe(true);
    expect(readdirSync(out).filter((name) => name.startsWith('step-')).length).toBeLessThanOrEqual(2);
  });

  test('data that has changed is refused', async () => {
    const dir = fresh();
    mkdirSync(dir);
    const data = join(dir, 'data.jsonl');
    cpSync(task.data, data);
    const out = join(dir, 'run');
    await train({ ...tinyRun({ ...task, data }, out), ...stopAt((event) => event.kind === 'step') });
    writeFileSync(data, `${readFileSync(data, 'utf8')}{"ids":[1,2,3]}\n`);
    await expectError(() => train({ out, resume: true, device: 'cpu' }), 'FILE', 'the data has changed');
  });
});

test('the same run with other micro-batches learns the same', async () => {
  const out = fresh();
  await train(tinyRun(task, out, { microBatch: 4, recompute: true }));
  const [a, b] = [numbers(logOf(out)), numbers(logOf(whole))];
  for (const [i, { loss, density }] of a.entries()) {
    expect(loss).toBeCloseTo(b[i]!.loss, 4);
    expect(density).toBeCloseTo(b[i]!.density!, 2);
  }
});

test('the device of the tests learns what the CPU learns, and goes on from a checkpoint', async () => {
  const out = fresh();
  const device = process.env['SPKV_TEST_DEVICE'] ?? 'cpu';
  const { threads: _, ...run } = tinyRun(task, out, { device });
  await train({ ...run, ...stopAt((event) => event.kind === 'step' && event.step === 2) });
  await train({ out, resume: true, device, peakFlops: 1e9 });
  const [steps, expected] = [numbers(logOf(out)), numbers(logOf(whole))];
  expect(steps.map(({ step }) => step)).toEqual([1, 2, 3, 4, 5, 6]);
  for (const [i, { loss }] of steps.entries()) expect(Math.abs(loss / expected[i]!.loss - 1)).toBeLessThan(0.01);
});

test('the tokens that one run has made serve another', async () => {
  const out = fresh();
  await train({ ...tinyRun(task, out), data: join(whole, 'tokens') });
  expect(bytesOf(join(out, 'model/model.safetensors')).equals(bytesOf(join(whole, 'model/model.safetensors')))).toBe(true);
  expect(existsSync(join(out, 'tokens'))).toBe(false);
});

test('files that are named for validation are not trained on', async () => {
  const dir = fresh();
  mkdirSync(dir);
  const lines = readFileSync(task.data, 'utf8').split('\n');
  writeFileSync(join(dir, 'a.jsonl'), lines.slice(0, 50).join('\n'));
  writeFileSync(join(dir, 'b.jsonl'), lines.slice(50, 60).join('\n'));
  const out = join(dir, 'run');
  const source = { path: dir, pattern: '*.jsonl', field: 'ids' };
  await train({ ...tinyRun(task, out), data: source, validation: { ...source, pattern: 'b.*' } });
  expect(logOf(out)[0]).toMatchObject({ trainingTokens: 50 * 60, validationTokens: 10 * 60 });
});

test('a dense run has no predictors, and random weights do', async () => {
  const config = join(task.model, 'config.json');
  const dense = await train({ ...tinyRun(task, fresh(), { dense: true, config, packing: 'stream' }), model: undefined as never });
  using model = await loadModel(dense.model!, { device: 'cpu' });
  expect(model.dense).toBe(true);
  expect(dense.validation).toMatchObject({ soft: null, hard: [], densities: null });
  const pruned = await train({ ...tinyRun(task, fresh(), { config, predictorBias: 2 }), model: undefined as never });
  expect(pruned.validation!.soft).toBeGreaterThan(0);
});

test('numbers that are not finite stop the run with step and layer; the checkpoint before stays', async () => {
  const out = fresh();
  await train({ ...tinyRun(task, out), ...stopAt((event) => event.kind === 'step' && event.step === 2) });
  const path = join(out, 'step-00000002/training.safetensors');
  const before = bytesOf(path);
  const { offset } = (await readSafetensorsHeader(path)).tensors.get('value.model.layers.1.mlp.up_proj.weight')!;
  const damaged = Buffer.from(before);
  damaged.writeFloatLE(NaN, offset);
  writeFileSync(path, damaged);
  const resume = () => train({ out, resume: true, device: 'cpu', threads: 2, peakFlops: 1e9 });
  await expectError(resume, 'NON_FINITE', 'Step 3: the loss is not finite, since the output of layer 1 is not', `the last checkpoint is ${join(out, 'step-00000002')}`);
  writeFileSync(path, before);
  await resume();
  expect(bytesOf(join(out, 'model/model.safetensors')).equals(bytesOf(join(whole, 'model/model.safetensors')))).toBe(true);
});

describe('refuses', () => {
  test.each<[name: string, changes: Record<string, unknown>, ...parts: (string | RegExp)[]]>([
    ['an unknown option', { learningrate: 1 }, 'Unknown option "learningrate" in training options; did you mean "learningRate"?'],
    ['a value out of range', { softShare: 1.5 }, 'Expected a number from 0 to 1 for softShare but received 1.5'],
    ['a number that is none', { steps: 'many' }, 'for steps but received "many"'],
    ['another choice', { packing: 'pairs' }, 'Expected one of documents, stream for packing'],
    ['a list that is none', { validationThresholds: 0.5 }, 'a list of numbers for validationThresholds'],
    ['two budgets', { tokens: 100 }, 'only one of steps, tokens and tokensPerParameter'],
    ['two origins', { config: 'x.json' }, 'either model'],
    ['no data', { data: undefined }, 'files or directories for data'],
    ['sequences longer than the positions', { sequenceLength: 257 }, 'at most 256, the positions of the model, for sequenceLength but received 257'],
    ['more warm-up than steps', { warmupSteps: 7 }, 'at most 6, the steps of the run, for warmupSteps'],
    ['micro-batches that do not fit', { microBatch: 3 }, 'a divisor of batchSize (4) for microBatch but received 3'],
    ['more than the data has', { sequenceLength: 256, data: { path: task.data, field: 'ids' }, validationShare: 0.5, batchSize: 4, window: 8, steps: 6, needles: 0.5 }, 'tokenizer'],
  ])('%s', async (_, changes, ...parts) => {
    const code = parts[0] === 'tokenizer' ? 'UNSUPPORTED' : 'INVALID_ARGUMENT';
    await expectError(() => train({ ...tinyRun(task, fresh()), ...changes } as never), code, ...parts);
  });

  test('an output directory that has a run already, or has none to resume', async () => {
    await expectError(() => train(tinyRun(task, whole)), 'FILE', 'expected no run in the output directory, found one');
    await expectError(() => train({ out: join(root, 'none'), resume: true }), 'FILE', 'expected the run to continue, found no such file');
  });

  test('an output directory that cannot be written to, before anything is read', async () => {
    writeFileSync(join(root, 'a-file'), '');
    await expectError(() => train(tinyRun(task, join(root, 'a-file'))), 'FILE', /a-file/);
  });

  test('data that is too little, and leaves nothing in the way of another attempt', async () => {
    const out = fresh();
    const data = join(root, 'little.jsonl');
    writeFileSync(data, '{"ids":[1,2,3]}\n');
    await expectError(() => train(tinyRun({ ...task, data }, out)), 'INVALID_ARGUMENT', 'at least 49 tokens of data for a sequence length of 48 but there are 2: give more data, or lower sequenceLength');
    expect((await train(tinyRun(task, out))).finished).toBe(true);
  });

  test('a run that cannot fit into memory, and says what to lower', async () => {
    const out = fresh();
    const { model } = await writeTinyTask(fresh(), { max_position_embeddings: 2 ** 20 });
    await expectError(
      () => train(tinyRun({ ...task, model }, out, { sequenceLength: 2 ** 20, batchSize: 4096, microBatch: 4096 })),
      'OUT_OF_MEMORY', /Training needs about .* for the activations of 4096 × 1048576 tokens; cpu has .*\. Lower microBatch \(now 4096\) or sequenceLength \(now 1048576\), or turn recompute on/,
    );
    expect(existsSync(out)).toBe(false);
  });
});

test('a little training lets the density fall, and the loss with it', async () => {
  const { validation } = await train(tinyRun(task, fresh(), { steps: 150, saveEvery: 150, validateEvery: 150, learningRate: 2e-2 }));
  const before = logOf(whole).find((record): record is ValidationRecord => record.kind === 'validation')!;
  const own = validation!.hard.find(({ threshold }) => threshold === 0.5)!;
  expect(own.density).toBeLessThan(0.95);
  expect(own.loss).toBeLessThan(before.dense);
  expect(own.loss).toBeLessThan(validation!.dense * 1.02);
});
