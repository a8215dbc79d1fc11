import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TensorToWrite } from '../../lib/checkpoint/safetensors-write.js';
import { type CheckpointContent, Checkpoints, writeCheckpoint } from '../../lib/train/checkpoints.js';
import { RunLog, type LogRecord } from '../../lib/train/log.js';
import { checkOutput } from '../../lib/train/space.js';
import { writeWhole } from '../../lib/write.js';
import { expectError } from '../support/errors.js';
import { temporaryDirectory } from '../support/files.js';

const root = temporaryDirectory();
let count = 0;
function fresh(): string {
  const dir = join(root, String(count++));
  mkdirSync(dir);
  return dir;
}

const tensor = (data: TensorToWrite['data']): TensorToWrite => ({ name: 'a', dtype: 'F32', shape: [2], data });
const content = (step: number, data: TensorToWrite['data'] = new Float32Array([step, 2])): CheckpointContent => ({
  config: { step }, weights: [tensor(new Float32Array([1, 2]))], tokenizerDir: undefined,
  training: { state: { step, tokens: 10 * step, seconds: 1, best: null, trainingTokens: 5 }, tensors: [tensor(data)] },
});
const names = (dir: string) => readdirSync(dir).sort();

test('a checkpoint is a directory in Hugging Face layout, with what training needs beside it', async () => {
  const dir = fresh();
  const source = fresh();
  for (const name of ['tokenizer.json', 'chat_template.jinja', 'model.safetensors']) writeFileSync(join(source, name), name);
  const checkpoints = new Checkpoints(dir);
  const path = await checkpoints.save(12, { ...content(12), tokenizerDir: source });
  expect(path).toBe(join(dir, 'step-00000012'));
  expect(names(path)).toEqual(['chat_template.jinja', 'config.json', 'model.safetensors', 'tokenizer.json', 'training.json', 'training.safetensors']);
  expect(readFileSync(join(path, 'tokenizer.json'), 'utf8')).toBe('tokenizer.json');
  expect(JSON.parse(readFileSync(join(path, 'config.json'), 'utf8'))).toEqual({ step: 12 });
  expect(await checkpoints.readState(12)).toEqual({ step: 12, tokens: 120, seconds: 1, best: null, trainingTokens: 5 });
});

test('one that fails half way leaves nothing, and the others as they are', async () => {
  const dir = fresh();
  const checkpoints = new Checkpoints(dir);
  await checkpoints.save(1, content(1));
  const before = readFileSync(join(dir, 'step-00000001/training.safetensors'));
  const failing = content(2, () => {
    expect(names(dir)).toEqual([expect.stringMatching(/^\.step-00000002\.[0-9a-f]{12}\.tmp$/), 'step-00000001']); // not under its name yet
    throw new Error('the device is gone');
  });
  await expect(checkpoints.save(2, failing)).rejects.toThrow('the device is gone');
  expect(names(dir)).toEqual(['step-00000001']);
  expect(readFileSync(join(dir, 'step-00000001/training.safetensors')).equals(before)).toBe(true);
});

test('a directory that is there is replaced as a whole', async () => {
  const path = join(fresh(), 'model');
  await writeCheckpoint(path, content(1));
  writeFileSync(join(path, 'left over'), '');
  await writeCheckpoint(path, content(2));
  expect(names(path)).not.toContain('left over');
  expect(JSON.parse(readFileSync(join(path, 'config.json'), 'utf8'))).toEqual({ step: 2 });
  expect(names(join(path, '..'))).toEqual(['model']);
});

test('listing and pruning; what is half written does not count', async () => {
  const dir = fresh();
  const checkpoints = new Checkpoints(dir);
  expect(await new Checkpoints(join(dir, 'none')).list()).toEqual([]);
  for (const step of [1, 2, 3, 4, 5]) await checkpoints.save(step, content(step));
  for (const name of ['.step-00000009.0123456789ab.tmp', '.model.0123456789ab.old', 'step-x', '.keep']) mkdirSync(join(dir, name));
  expect(await checkpoints.list()).toEqual([1, 2, 3, 4, 5]);
  await checkpoints.prune(2, [1]);
  expect(await checkpoints.list()).toEqual([1, 4, 5]);
  await checkpoints.clean();
  expect(names(dir)).toEqual(['.keep', 'step-00000001', 'step-00000004', 'step-00000005', 'step-x']);
});

test('a checkpoint whose state is missing or of another step is refused', async () => {
  const dir = fresh();
  const checkpoints = new Checkpoints(dir);
  await writeCheckpoint(checkpoints.path(3), { ...content(3), training: content(4).training! });
  await expectError(() => checkpoints.readState(3), 'FILE', 'training.json: expected the state of a run after 3 steps, found something else');
  await expectError(() => checkpoints.readState(5), 'FILE', 'found no such file');
});

test('writeWhole replaces a file and leaves nothing else', async () => {
  const dir = fresh();
  await writeWhole(join(dir, 'a'), 'one');
  await writeWhole(join(dir, 'a'), 'two');
  expect(names(dir)).toEqual(['a']);
  expect(readFileSync(join(dir, 'a'), 'utf8')).toBe('two');
  await expectError(() => writeWhole(join(dir, 'none/a'), 'x'), 'FILE', 'could not be written (ENOENT)');
});

test('the log takes back what came after a step, and a line that was cut short', async () => {
  const log = new RunLog(join(fresh(), 'log.jsonl'));
  expect(await log.read()).toEqual([]);
  const save = (step: number): LogRecord => ({ kind: 'save', step, path: 'p', best: false });
  for (const step of [1, 2, 3]) await log.add(save(step));
  await log.add({ kind: 'end', step: 1, reason: 'stopped' });
  writeFileSync(log.path, `${readFileSync(log.path, 'utf8')}{"kind":"save","st`);
  await log.rewind(2);
  expect(await log.read()).toEqual([save(1), save(2)]);
});

test('a disk without room is refused before anything is done, one that may fill up is warned of', async () => {
  const dir = fresh();
  await expectError(() => checkOutput(dir, 2 ** 60, 1), 'FILE', 'expected room of', 'for 2 checkpoints on the disk, found');
  const warnings: string[] = [];
  await checkOutput(dir, 2 ** 30, 2 ** 30, (message) => warnings.push(message));
  expect(warnings).toEqual([expect.stringMatching(/the disk has .* free, which is less than/)]);
  await checkOutput(join(dir, 'new'), 1, 1);
  expect(existsSync(join(dir, 'new'))).toBe(true);
  writeFileSync(join(dir, 'file'), '');
  await expectError(() => checkOutput(join(dir, 'file'), 1, 1), 'FILE', 'could not be written to');
});
