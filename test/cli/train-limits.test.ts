// What happens to a run when the disk or the memory is full while it goes on. The system's limits for a process stand in
// for both: they are set from outside when the run has begun.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { train, type TrainOptions, type TrainResult } from '../../lib/train/index.js';
import { tinyConfig } from '../support/checkpoints.js';
import { type CliResult, jsonLines, spkv } from '../support/cli.js';
import { temporaryDirectory } from '../support/files.js';
import { tinyRun, writeTinyTask } from '../support/tiny-task.js';

const PRLIMIT = '/usr/bin/prlimit';
const root = temporaryDirectory();
const task = await writeTinyTask(root);

/** Sets a limit of a process, from its virtual size in bytes. */
function limit(pid: number, resource: string, value: (size: number) => number): void {
  const size = 1024 * Number(/VmSize:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]);
  const { status, stderr } = spawnSync(PRLIMIT, ['--pid', String(pid), `--${resource}=${value(size)}`], { encoding: 'utf8' });
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
}

/** Goes on with the run in `out`; the limit is set after its first step. */
async function resume(out: string, set?: (pid: number) => void): Promise<CliResult> {
  let done = false;
  return spkv(['train', '--resume', '--out', out, '--device', 'cpu', '--threads', '2', '--peak-flops', '1e9', '--json'], {
    onOutput: (child, stdout) => {
      if (done || !set || !stdout.includes('"kind":"step"')) return;
      done = true;
      set(child.pid!);
    },
  });
}

/** Begins a run and stops it after its first step. */
async function begin(options: TrainOptions): Promise<void> {
  const controller = new AbortController();
  await train({ ...options, signal: controller.signal, onProgress: ({ kind }) => kind === 'step' && controller.abort(new Error('stop')) });
}

const checkpoints = (out: string) => readdirSync(out).filter((entry) => /^\.?step-/.test(entry));

(existsSync(PRLIMIT) ? describe : describe.skip)('in the middle of a run', () => {
  test('a full disk ends it, names the file, and leaves the last checkpoint, from which it ends as if nothing had happened', async () => {
    const options = (name: string) => tinyRun(task, join(root, name), { steps: 40, saveEvery: 20, validateEvery: 20 });
    const [{ out }, whole] = [options('disk'), options('whole')];
    await train(whole);
    await begin(options('disk'));
    const { code, stderr } = await resume(out, (pid) => limit(pid, 'fsize', () => 60_000)); // the log fits, the optimiser does not
    expect({ code, stderr }).toEqual({ code: 1, stderr: expect.stringMatching(/^spkv: FILE: .*step-00000020.*training\.safetensors: could not be written \(EFBIG\)\n$/) });
    expect(checkpoints(out)).toEqual(['step-00000001']);
    expect(jsonLines<TrainResult>(await resume(out)).at(-1)).toMatchObject({ finished: true });
    expect(readFileSync(join(out, 'model/model.safetensors')).equals(readFileSync(join(whole.out, 'model/model.safetensors')))).toBe(true);
  });

  test('memory that runs out ends it, says what is needed and what to lower, and leaves the last checkpoint', async () => {
    const config = join(root, 'config.json');
    writeFileSync(config, JSON.stringify(tinyConfig('llama', { vocab_size: 65_536, hidden_size: 128, tie_word_embeddings: true })));
    const { model: _, ...options } = tinyRun(task, join(root, 'memory'), { config, steps: 3, saveEvery: 3, batchSize: 1, microBatch: 1, validationShare: 0 });
    await begin(options);
    // Too little for an array that holds the embedding, 32 MiB.
    const { code, stderr } = await resume(options.out, (pid) => limit(pid, 'as', (size) => size + (20 << 20)));
    expect({ code, stderr: stderr.replace(/^.*no validation data.*\n/, '') }).toEqual({
      code: 1,
      stderr: expect.stringMatching(/^spkv: OUT_OF_MEMORY: Training needs about .* for weights and optimiser, .* for the activations of 1 × 48 tokens; (Could not allocate \d+ bytes to read a tensor|JavaScript found none for an array \(.*\))\. Lower --sequence-length \(now 48\), or give --recompute\n$/),
    });
    expect(checkpoints(options.out)).toEqual(['step-00000001']);
    expect(jsonLines<TrainResult>(await resume(options.out)).at(-1)).toMatchObject({ finished: true });
  }, 180_000);
});
