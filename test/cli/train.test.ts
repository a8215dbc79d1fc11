import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { loadModel } from '../../lib/index.js';
import { train, type TrainResult } from '../../lib/train/index.js';
import { jsonLines, moduleOf, spkv, type CliOptions } from '../support/cli.js';
import { temporaryDirectory } from '../support/files.js';
import { tinyRun, writeTinyTask } from '../support/tiny-task.js';

const root = temporaryDirectory();
const task = await writeTinyTask(root);
const LONG = { steps: 48, saveEvery: 4, validateEvery: 24 };

/** A small run as a command line. */
function command(out: string, changes: Record<string, string | number> = {}): string[] {
  const { data: _, model, out: __, ...settings } = tinyRun(task, out);
  const flags = Object.entries({ ...settings, ...changes }).flatMap(([name, value]) => [`--${name.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)}`, String(value)]);
  return ['train', '--model', model!, '--data', task.data, '--field', 'ids', '--out', out, ...flags];
}

const resume = (out: string, options?: CliOptions) => spkv(['train', '--resume', '--out', out, '--device', 'cpu', '--threads', '2', '--json'], options);

test('trains, says what it does, and writes a model', async () => {
  const out = join(root, 'plain');
  const { code, stdout, stderr } = await spkv(command(out));
  expect({ code, stdout, stderr }).toEqual({ code: 0, stdout: expect.stringMatching(/^The model is in .*plain\/model\.\nValidation loss \d\.\d{4} open, .*τ 0\.5: .*\nThe report is in .*report\.html\.\n$/), stderr: expect.any(String) });
  for (const part of [/parameters on .*tokens of data, .* more for validation; 6 steps/, /step 1 of 6 · loss \d\.\d{4} · density .* % · .* tokens\/s · .* of peak · .* left/, / {5}6 {2}validation loss/]) expect(stderr).toMatch(part);
});

/** A module that kills the process before one of its changes to files: the nth after it has first written to stdout. */
const killBefore = (nth: number) => moduleOf(`
  import files from 'node:fs/promises';
  import { syncBuiltinESMExports } from 'node:module';
  let left = Infinity;
  const write = process.stdout.write;
  process.stdout.write = function (...args) {
    process.stdout.write = write;
    left = ${nth};
    return write.apply(this, args);
  };
  const count = (object, name) => {
    const change = object[name];
    object[name] = function (...args) {
      if (--left === 0) process.kill(process.pid, 'SIGKILL');
      return change.apply(this, args);
    };
  };
  const file = await files.open(process.execPath);
  await file.close();
  for (const name of ['write', 'writeFile', 'sync']) count(Object.getPrototypeOf(file), name);
  for (const name of ['appendFile', 'mkdir', 'open', 'rename', 'rm']) count(files, name);
  syncBuiltinESMExports();
`);

test('killed at any moment it resumes, and ends as if nothing had happened', async () => {
  const reference = join(root, 'reference');
  await train(tinyRun(task, reference, LONG));
  const out = join(root, 'killed');
  await fc.assert(fc.asyncProperty(fc.array(fc.integer({ min: 1, max: 100 }), { minLength: 3, maxLength: 3 }), async (moments) => {
    for (const [attempt, moment] of moments.entries()) {
      const options: CliOptions = { preload: [killBefore(moment)] };
      const { code } = await (attempt === 0 ? spkv([...command(out, LONG), '--json'], options) : resume(out, options));
      expect(code).toBeNull();
      // Whatever is there under its name is whole.
      const steps = readdirSync(out).filter((name) => name.startsWith('step-')).sort();
      if (steps.length > 0) (await loadModel(join(out, steps.at(-1)!), { device: 'cpu' })).dispose();
    }
  }), { numRuns: 1 });
  const result = jsonLines<TrainResult>(await resume(out)).at(-1)!;
  expect(result).toMatchObject({ step: LONG.steps, finished: true });
  const weights = (dir: string) => readFileSync(join(dir, 'model/model.safetensors'));
  expect(weights(out).equals(weights(reference))).toBe(true);
  expect(readdirSync(out).filter((name) => name.startsWith('.'))).toEqual([]);
});

test('Ctrl-C saves and stops, and says how to go on', async () => {
  const out = join(root, 'interrupted');
  const { code, stdout } = await spkv([...command(out, LONG), '--json'], { pause: { at: /"step":10,/, meanwhile: (child) => child.kill('SIGINT') } });
  expect(code).toBe(130);
  const lines = stdout.trim().split('\n').map((line) => JSON.parse(line) as TrainResult & { kind?: string });
  expect(lines.map(({ kind }) => kind ?? 'result').slice(-3)).toEqual(['save', 'end', 'result']);
  const { step, checkpoint, finished } = lines.at(-1)!;
  expect(finished).toBe(false);
  expect(step).toBeGreaterThanOrEqual(10);
  expect(JSON.parse(readFileSync(join(checkpoint, 'training.json'), 'utf8'))).toMatchObject({ step });
});

test('with --gpus an error is told once, by the process that has the terminal', async () => {
  const args = command(join(root, 'gpus'));
  args.splice(args.indexOf('--device'), 2);
  args.splice(args.indexOf('--threads'), 2);
  const { code, stdout, stderr } = await spkv([...args, '--gpus', '2'], { env: { SPKV_CUDA_LIBRARY: 'none' } });
  expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
  expect(stderr).toMatch(/^spkv: DEVICE: (Rank 1: )?Device "cuda:[01]" needs the CUDA library of spkv, which is not there .*\n$/);
});

describe('errors', () => {
  test.each<[name: string, args: () => string[], code: number, ...parts: string[]]>([
    ['a setting that the model does not allow', () => command(join(root, 'x'), { sequenceLength: 512 }), 2, 'at most 256, the positions of the model, for --sequence-length but received 512'],
    ['nothing to resume', () => ['train', '--resume', '--out', join(root, 'none')], 1, 'run.json: expected the run to continue, found no such file'],
    ['GPUs, and a device', () => [...command(join(root, 'x')), '--gpus', '2'], 2, '--gpus takes the first GPUs; give either it or --device'],
    ['bad data', () => command(join(root, 'bad')).map((arg) => (arg === task.data ? bad() : arg)), 1, 'bad.jsonl:2: expected text, or token ids, in the field "ids", found only "text"'],
  ])('%s', async (_, args, code, ...parts) => {
    const result = await spkv(args());
    expect(result).toMatchObject({ code, stdout: '' });
    expect(result.stderr).toMatch(/^spkv: /m);
    for (const part of parts) expect(result.stderr).toContain(part);
  });

  function bad(): string {
    const path = join(root, 'bad.jsonl');
    writeFileSync(path, '{"ids":[1,2]}\n{"text":"a"}\n');
    return path;
  }
});
