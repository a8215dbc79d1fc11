// Where there are several GPUs: SPKV_TEST_GPUS=2 npm test -- test/train/parallel. On the emulator with its libraries, and
// SPKV_EMULATED_DEVICES=2.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type LogRecord, type StepRecord, train, type TrainOptions } from '../../../lib/train/index.js';
import { spkv } from '../../support/cli.js';
import { temporaryDirectory } from '../../support/files.js';
import { trainTogether } from '../../support/ranks.js';
import { tinyRun, writeTinyTask } from '../../support/tiny-task.js';

const count = Number(process.env['SPKV_TEST_GPUS']);
if (!(count > 1)) throw new Error('Expected at least 2 for SPKV_TEST_GPUS');
const root = temporaryDirectory();
const task = await writeTinyTask(root);
const nccl = { env: () => ({ SPKV_TEST_REDUCTION: 'nccl' }) };

function run(name: string, changes: Partial<TrainOptions> = {}): TrainOptions {
  const { threads: _, device: __, ...options } = tinyRun(task, join(root, name), { batchSize: 2 * count, microBatch: 1, ...changes });
  return options;
}

function stepsOf(name: string): StepRecord[] {
  const lines = readFileSync(join(root, name, 'log.jsonl'), 'utf8').trim().split('\n');
  return lines.map((line) => JSON.parse(line) as LogRecord).filter((event): event is StepRecord => event.kind === 'step');
}

describe(`${count} GPUs`, () => {
  test('learn what one does with the same batch', async () => {
    await train({ ...run('one'), device: 'cuda:0' });
    const results = await trainTogether(count, run('all'), nccl);
    expect(results.map(({ code, error, stderr }) => ({ code, error, stderr }))).toEqual(results.map(() => ({ code: 0, error: undefined, stderr: '' })));
    const expected = stepsOf('one');
    for (const [i, { loss, gradientNorm }] of stepsOf('all').entries()) {
      // In bf16.
      expect(Math.abs(loss / expected[i]!.loss - 1)).toBeLessThan(0.01);
      expect(Math.abs(gradientNorm / expected[i]!.gradientNorm - 1)).toBeLessThan(0.05);
    }
  }, 180_000);

  test('end when one of them is gone', async () => {
    const results = await trainTogether(count, run('killed', { steps: 1000, saveEvery: 2 }), {
      ...nccl, onEvent: (event, children) => event.kind === 'step' && event.step === 3 && children[1]!.kill('SIGKILL'),
    });
    expect(results[0]).toMatchObject({ code: 1, error: { code: 'RANK', message: expect.stringContaining('Rank 1') } });
  }, 180_000);

  test('are started by one command', async () => {
    const { data: _, model, out, ...settings } = run('command');
    const flags = Object.entries(settings).flatMap(([name, value]) => [`--${name.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)}`, String(value)]);
    const { code, stdout, stderr } = await spkv(['train', '--model', model!, '--data', task.data, '--field', 'ids', '--out', out, '--gpus', String(count), ...flags]);
    expect({ code, stderr, stdout }).toEqual({ code: 0, stderr: expect.stringContaining(`parameters on ${count} × `), stdout: expect.stringMatching(/^The model is in/) });
  }, 180_000);
});
