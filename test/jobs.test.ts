import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { JobThread } from '../lib/jobs.js';
import { expectError } from './support/errors.js';

const MODULE = new URL('./support/job-thread.mjs', import.meta.url);
type Action = 'setup' | 'double' | 'fail' | 'refuse' | 'crash' | 'exit' | 'sleep';

function start(setup: unknown = null) {
  const thread = new JobThread<{ action: Action; value?: unknown }, unknown>({ module: MODULE, setup, purpose: 'tests', farewell: 'The test has ended' });
  return Object.assign(thread, { ask: (action: Action, value?: unknown) => thread.run({ action, value }) });
}

test('answers come to those who asked, and the thread knows its setup', async () => {
  await using thread = start({ of: 'a test' });
  expect(thread.available).toBe(true);
  const answers = [thread.ask('setup'), ...[1, 2, 3].map((value) => thread.ask('double', Float64Array.of(value, -value)))];
  expect(thread.waiting).toBe(4);
  expect(await Promise.all(answers)).toEqual([{ of: 'a test' }, Float64Array.of(2, -2), Float64Array.of(4, -4), Float64Array.of(6, -6)]);
  expect(thread.waiting).toBe(0);
});

test('there is none without its module', () => {
  const missing = new JobThread({ module: new URL('./no-such-module.js', import.meta.url), setup: null, purpose: 'tests', farewell: '' });
  expect(missing.available).toBe(false);
});

test('a job that fails says so with its code, and others go on', async () => {
  await using thread = start();
  const answers = [thread.ask('fail'), thread.ask('refuse'), thread.ask('double', [4])] as const;
  await expectError(() => answers[0], 'INTERNAL', /^broken$/);
  await expectError(() => answers[1], 'OUT_OF_RANGE', /^too far$/);
  expect(await answers[2]).toEqual([8]);
  await expect(thread.ask('double', () => {})).rejects.toThrow('could not be cloned');
  expect(thread.waiting).toBe(0);
});

test('when the thread is lost, those who wait are told why, and the next job starts another', async () => {
  await using thread = start();
  const lost = [thread.ask('exit'), thread.ask('double', [1])] as const;
  await expectError(() => lost[0], 'INTERNAL', /^The thread that tests has ended: exit code 3$/);
  await expectError(() => lost[1], 'INTERNAL', 'exit code 3');
  expect(await thread.ask('double', [1])).toEqual([2]);
});

test('the end of a lost thread does not touch the jobs of the next', async () => {
  await using thread = start();
  await expectError(() => thread.ask('crash'), 'INTERNAL', /^The thread that tests has ended: lost its way$/);
  expect(await thread.ask('double', [3])).toEqual([6]); // asked between the error of the first and its exit
});

test('it keeps the process alive while jobs wait, and no longer', async () => {
  const program = `import('./lib/jobs.ts').then(async ({ JobThread }) => {
    const thread = new JobThread({ module: new URL('${MODULE.href}'), setup: null, purpose: 'tests', farewell: '' });
    for (const value of [1, 2]) {
      thread.run({ action: 'double', value: [value] }).then((answer) => console.log(...answer));
      await new Promise((resolve) => setTimeout(resolve, value));
    }
  })`;
  const { NODE_OPTIONS: _, ...env } = process.env;
  const { stdout } = await promisify(execFile)(process.execPath, ['--import', 'tsx', '--eval', program], { env, timeout: 240_000 });
  expect(stdout).toBe('2\n4\n');
});

test('who waits when the owner goes, and who comes later, is told DISPOSED', async () => {
  const thread = start();
  await thread.ask('setup');
  const waiting = thread.ask('sleep');
  const told = expectError(() => waiting, 'DISPOSED', /^The test has ended$/);
  await thread[Symbol.asyncDispose]();
  await told;
  await expectError(() => thread.ask('setup'), 'DISPOSED', /^The test has ended$/);
  await thread[Symbol.asyncDispose]();
});
