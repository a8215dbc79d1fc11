// Several processes train together on the CPU, with sockets in place of NCCL.
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type ErrorCode, SpkvError } from '../../../lib/errors.js';
import { type LogRecord, type StepRecord, train, type TrainEvent, type TrainOptions, type TrainResult, type ValidationRecord } from '../../../lib/train/index.js';
import type { Tensor } from '../../../lib/ops.js';
import { openNccl, type OpenReduction } from '../../../lib/train/parallel/reduction.js';
import { trainWith } from '../../../lib/train/train.js';
import { tinyConfig, writeRandomCheckpoint } from '../../support/checkpoints.js';
import { expectError } from '../../support/errors.js';
import { temporaryDirectory } from '../../support/files.js';
import { MODEL_DIR } from '../../support/golden.js';
import { type RankResult, trainTogether } from '../../support/ranks.js';
import { freePort, openSockets } from '../../support/socket-reduction.js';
import { tinyRun, writeTinyTask } from '../../support/tiny-task.js';

const root = temporaryDirectory();
const task = await writeTinyTask(root);
let count = 0;
const fresh = () => join(root, `run-${count++}`);
const run = (changes: Partial<TrainOptions> = {}): TrainOptions & { out: string } => ({ ...tinyRun(task, fresh(), { threads: 1, ...changes }) });
const resume = (out: string): TrainOptions => ({ out, resume: true, device: 'cpu', threads: 1, peakFlops: 1e9 });
const logOf = (out: string) => readFileSync(join(out, 'log.jsonl'), 'utf8').trim().split('\n').map((line) => JSON.parse(line) as LogRecord);
const stepsOf = (events: readonly LogRecord[]) => events.filter((event): event is StepRecord => event.kind === 'step');
const validationsOf = (events: readonly LogRecord[]) => events.filter((event): event is ValidationRecord => event.kind === 'validation');
const weights = (out: string) => readFileSync(join(out, 'model/model.safetensors'));
const succeeded = (results: readonly RankResult[]) => expect(results.map(({ code, error, stderr }) => ({ code, error, stderr }))).toEqual(results.map(() => ({ code: 0, error: undefined, stderr: '' })));

const alone = run({ microBatch: 1 });
await train(alone);

/**
 * Gradients are sums of the same numbers in another order: they differ by a few roundings, of which Adam's first steps
 * make as much as it makes of the gradient itself.
 */
function expectSameCurves(out: string, other = alone.out): void {
  const [events, expected] = [logOf(out), logOf(other)];
  expect(stepsOf(events).map(({ step, tokens }) => [step, tokens])).toEqual(stepsOf(expected).map(({ step, tokens }) => [step, tokens]));
  for (const [i, { loss, density, gradientNorm, alpha }] of stepsOf(events).entries()) {
    const wanted = stepsOf(expected)[i]!;
    expect(alpha).toBe(wanted.alpha);
    expect(Math.abs(loss / wanted.loss - 1)).toBeLessThan(1e-4);
    expect(Math.abs(gradientNorm / wanted.gradientNorm - 1)).toBeLessThan(1e-3);
    expect(Math.abs(density! - wanted.density!)).toBeLessThan(0.02);
  }
  for (const [i, { dense, soft, hard }] of validationsOf(events).entries()) {
    const wanted = validationsOf(expected)[i]!;
    expect(Math.abs(dense / wanted.dense - 1)).toBeLessThan(1e-4);
    expect(Math.abs(soft! / wanted.soft! - 1)).toBeLessThan(1e-4);
    expect(hard.length).toBe(wanted.hard.length);
  }
}

describe.each([2, 4])('%i processes', (size) => {
  const options = run({ microBatch: 1 });
  let results: RankResult[];
  beforeAll(async () => {
    results = await trainTogether(size, options);
  });

  test('learn what one does with the same batch; the first step is the same to the bit', () => {
    succeeded(results);
    expectSameCurves(options.out);
    const [first, expected] = [logOf(options.out), logOf(alone.out)].map((events) => stepsOf(events)[0]!);
    expect(first!.loss).toBe(expected!.loss);
    expect(first!.density).toBe(expected!.density);
  });

  test('get the same result; rank 0 alone tells of it', () => {
    for (const { result } of results) expect(result).toEqual(results[0]!.result);
    expect(results[0]!.result).toMatchObject({ step: 6, finished: true, model: join(options.out, 'model') });
    expect(results.slice(1).map(({ events }) => events.length)).toEqual(results.slice(1).map(() => 0));
    expect(logOf(options.out)[0]).toMatchObject({ kind: 'start', ranks: size });
    expect(readdirSync(options.out).filter((name) => name.startsWith('.'))).toEqual([]);
  });
});

/** Kills a process, and waits until it is gone. */
async function kill(child: ChildProcess): Promise<void> {
  child.kill('SIGKILL');
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
}

test('killed, a process ends the others; all go on from the last checkpoint, and a signal to one stops all at the same step', async () => {
  const options = run({ steps: 100, saveEvery: 1 });
  const results = await trainTogether(2, options, {
    onEvent: (event, children) => event.kind === 'step' && event.step === 5 && kill(children[1]!),
  });
  expect(results[1]).toMatchObject({ code: null });
  expect(results[0]).toMatchObject({ code: 1, stderr: '', error: { code: 'RANK', message: expect.stringMatching(/^Rank 1 of 2 has ended/) } });
  const saved = () => readdirSync(options.out).filter((name) => name.startsWith('step-')).map((name) => Number(name.slice(5))).sort((a, b) => a - b).at(-1)!;
  const before = saved();
  expect(before).toBeGreaterThanOrEqual(4);
  const stopped = await trainTogether(2, resume(options.out), {
    onEvent: (event, children) => event.kind === 'step' && event.step === before + 2 && children[1]!.kill('SIGINT'),
  });
  succeeded(stopped);
  const { step } = stopped[0]!.result!;
  for (const { result } of stopped) expect(result).toMatchObject({ step, finished: false, model: null });
  expect(step).toBeGreaterThanOrEqual(before + 2);
  expect(saved()).toBe(step);
  expect(logOf(options.out).filter((event) => event.kind === 'save' && event.step === step).length).toBe(1);
});

test('rank 0 stops tokenising when another is killed', async () => {
  const data = join(root, 'long.txt');
  writeFileSync(data, 'def walk(self):\n    return [self.left, self.right]\n\n'.repeat(120_000));
  const { threads, peakFlops } = run();
  const options: TrainOptions = { model: MODEL_DIR, data, out: fresh(), device: 'cpu', threads: threads!, peakFlops: peakFlops!, sequenceLength: 64, batchSize: 2, steps: 1 };
  const [first] = await trainTogether(2, options, { onEvent: (_, children) => kill(children[1]!) });
  expect(first!.error).toEqual({ code: 'RANK', message: expect.stringContaining('Rank 1 of 2 has ended') });
  const last = first!.events.at(-1) as unknown as { kind: string; done: number; total: number };
  expect(last.kind).toBe('tokenise');
  expect(last.done).toBeLessThan(last.total);
});

test('rank 0 that is killed ends the others', async () => {
  const results = await trainTogether(2, run({ steps: 100 }), {
    onEvent: (event, children) => event.kind === 'step' && event.step === 3 && children[0]!.kill('SIGKILL'),
  });
  expect(results[1]).toMatchObject({ code: 1, error: { code: 'RANK', message: expect.stringContaining('Rank 0 of 2 has ended') } });
});

// From here on the ranks are in one process.

interface Settled {
  result?: TrainResult;
  error?: SpkvError;
}

/** Each rank with options of its own. */
async function ranksTrain(size: number, options: (rank: number) => TrainOptions, openReduction: OpenReduction = openSockets): Promise<Settled[]> {
  const port = await freePort();
  return Promise.all(Array.from({ length: size }, async (_, rank): Promise<Settled> => {
    try {
      const ranks = { rank, size, localRank: rank, address: '127.0.0.1', port, patience: 200 };
      return { result: await trainWith({ ...options(rank), ranks }, openReduction) };
    } catch (error) {
      return { error: error as SpkvError };
    }
  }));
}

async function expectAll(settled: Promise<Settled[]>, code: ErrorCode, part: string | RegExp): Promise<void> {
  for (const { error } of await settled) expect(error).toMatchObject({ code, message: expect.stringMatching(part) });
}

test('stopped and resumed, the same number of ranks ends with the same bits, and one alone goes on too', async () => {
  const whole = run({ steps: 8 });
  await ranksTrain(2, () => whole);
  const options = run({ steps: 8 });
  const controller = new AbortController();
  const stopped = await ranksTrain(2, (rank) => ({
    ...options,
    ...(rank === 0 ? { onProgress: (event: TrainEvent) => event.kind === 'step' && event.step === 2 && controller.abort(new Error('stop')) } : { signal: controller.signal }),
  }));
  const { step } = stopped[0]!.result!;
  expect(step).toBeGreaterThan(2);
  expect(step).toBeLessThan(8);
  expect(stopped[1]!.result).toMatchObject({ step, finished: false });
  const copy = fresh();
  cpSync(options.out, copy, { recursive: true });
  await ranksTrain(2, () => resume(options.out));
  expect(weights(options.out).equals(weights(whole.out))).toBe(true);
  await train(resume(copy));
  expectSameCurves(copy, whole.out);
});

test('a sum that is not finite stops all ranks before it reaches the weights, with step and layer', async () => {
  const options = run();
  const poisoned: OpenReduction = async (device, group) => {
    const reduction = await openSockets(device, group);
    let sums = 0;
    const sum = (x: Tensor) => {
      if (group.rank === 1 && ++sums === 4) x.write((new Float32Array(x.size)).fill(NaN));
      reduction.sum(x);
    };
    return { ...reduction, sum };
  };
  await expectAll(ranksTrain(2, () => options, poisoned), 'NON_FINITE', /^(Rank \d: )?Step 4: the gradient of the output is not finite; the weights are as they were; the last checkpoint is .*step-00000002/);
});

test('memory that runs out in the middle of a run ends all ranks, says what is needed and what to lower; they go on from the last checkpoint', async () => {
  const options = run();
  const greedy: OpenReduction = async (device, group) => {
    const reduction = await openSockets(device, group);
    let joins = 0;
    const join = async () => {
      await reduction.join();
      // A tensor of 64 TiB, all of whose rows are the same.
      if (++joins === 4 && group.rank === 1) await device.tensor('f32', [2 ** 15]).view([2 ** 14, 2 ** 15, 2 ** 15], [0, 0, 1], 0).read();
    };
    return { ...reduction, join };
  };
  await expectAll(ranksTrain(2, () => options, greedy), 'OUT_OF_MEMORY', /^(Rank 1: )?Training needs about .* for weights and optimiser, .* for the activations of 2 × 48 tokens; Could not allocate \d+ bytes to read a tensor\. Lower microBatch \(now 2\) or sequenceLength \(now 48\), or turn recompute on$/);
  expect(readdirSync(options.out).filter((name) => /^\.?step-/.test(name))).toEqual(['step-00000002']);
  for (const { result } of await ranksTrain(2, () => resume(options.out))) expect(result).toMatchObject({ step: 6, finished: true });
});

test('needles are asked for on all ranks, and give what one gives', async () => {
  const options = (): TrainOptions & { out: string } => ({
    model: MODEL_DIR, data: 'models/sample.py', out: fresh(), device: 'cpu', threads: 1, peakFlops: 1e9, steps: 1, sequenceLength: 400,
    batchSize: 2, microBatch: 1, needles: 0.5, validationShare: 0.4, validationTokens: 800, validationThresholds: [0.5], learningRate: 0, dtype: 'f32',
  });
  const [one, two] = [options(), options()];
  await train(one);
  await ranksTrain(2, () => two);
  const recall = (out: string) => logOf(out).find((event) => event.kind === 'recall');
  expect(recall(two.out)).toMatchObject({ results: expect.any(Array) });
  expect(recall(two.out)).toEqual(recall(one.out));
});

describe('ranks that do not fit together', () => {
  test('in their settings', async () => {
    const options = run();
    await expectAll(ranksTrain(2, (rank) => ({ ...options, learningRate: rank === 1 ? 0.5 : 0.01 })), 'RANK', 'the same learningRate on all ranks, found 0.01 on rank 0 and 0.5 on rank 1');
  });

  test('in their directories', async () => {
    await expectAll(ranksTrain(2, () => run()), 'RANK', 'the same out on all ranks');
  });

  test('in their weights', async () => {
    const [own, { dir }] = [run(), await writeRandomCheckpoint(fresh(), tinyConfig('llama', { torch_dtype: 'bfloat16' }), 7)];
    await expectAll(ranksTrain(2, (rank) => ({ ...own, model: rank === 0 ? task.model : dir })), 'RANK', 'the same weights on all ranks');
  });

  test('in number', async () => {
    const options = run();
    await expectAll(ranksTrain(3, () => options), 'INVALID_ARGUMENT', 'Expected a multiple of 3, the number of ranks, for batchSize but received 4');
  });

  test('data that cannot be used is named on all of them', async () => {
    const options = run({ data: { path: task.data, field: 'text' } });
    await expectAll(ranksTrain(2, () => options), 'FILE', 'data.jsonl:1: expected text, or token ids, in the field "text"');
  });

  test('a sum that fails ends all of them', async () => {
    const options = run();
    const failing: OpenReduction = async (device, group) => {
      const reduction = await openSockets(device, group);
      let sums = 0;
      return { ...reduction, join: async () => (group.rank === 1 && ++sums === 3 ? Promise.reject(new SpkvError('RANK', 'the cable was pulled')) : reduction.join()) };
    };
    await expectAll(ranksTrain(2, () => options, failing), 'RANK', 'the cable was pulled');
  });

  test('without GPUs there is no NCCL', async () => {
    const options = run();
    await expectAll(ranksTrain(2, () => options, openNccl), 'UNSUPPORTED', 'NCCL, which needs NVIDIA GPUs; this device is the CPU');
  });

  test('places that a program gives are checked', async () => {
    await expectError(() => train({ ...run(), ranks: { rank: 2, size: 2, localRank: 0, address: 'x', port: 1 } }), 'INVALID_ARGUMENT', 'rank of ranks');
  });
});
