// What happens to a run when the disk is full while it goes on. The system's limit for a process stands in for it: it is
// set from outside when the run has begun.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { train, type TrainOptions, type TrainResult } from '../../lib/train/index.js';
import { type CliResult, jsonLines, spkv } from '../support/cli.js';
import { temporaryDirectory } from '../support/files.js';
import { tinyRun, writeTinyTask } from '../support/tiny-task.js';

const PRLIMIT = '/usr/bin/prlimit';
const root = temporaryDirectory();
const task = await writeTinyTask(root);

/** Limits the size of files that a process can write. */
function limit(pid: number, bytes: number): void {
  const { status, stderr } = spawnSync(PRLIMIT, ['--pid', String(pid), `--fsize=${bytes}`], { encoding: 'utf8' });
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
}

/** Goes on with the run in `out`; the limit is set after its first step. */
function resume(out: string, set?: (pid: number) => void): Promise<CliResult> {
  return spkv(['train', '--resume', '--out', out, '--device', 'cpu', '--threads', '2', '--peak-flops', '1e9', '--json'], {
    ...(set && { pause: { at: /"kind":"step"/, meanwhile: ({ pid }) => set(pid!) } }),
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
    const { code, stderr } = await resume(out, (pid) => limit(pid, 70_000)); // the log fits, the optimiser does not
    expect({ code, stderr }).toEqual({ code: 1, stderr: expect.stringMatching(/^spkv: FILE: .*step-00000020.*training\.safetensors: could not be written \(EFBIG\)\n$/) });
    expect(checkpoints(out)).toEqual(['step-00000001']);
    expect(jsonLines<TrainResult>(await resume(out)).at(-1)).toMatchObject({ finished: true });
    expect(readFileSync(join(out, 'model/model.safetensors')).equals(readFileSync(join(whole.out, 'model/model.safetensors')))).toBe(true);
  });
});
