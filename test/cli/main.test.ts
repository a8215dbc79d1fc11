import { readFileSync } from 'node:fs';
import type { CommanderError } from 'commander';
import { report } from '../../lib/cli/exit.js';
import { createProgram } from '../../lib/cli/program.js';
import { spkv } from '../support/cli.js';

/** What a command line that does no work writes, and its exit code. */
async function usage(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  let [stdout, stderr] = ['', ''];
  const program = createProgram({ writeOut: (text) => (stdout += text), writeErr: (text) => (stderr += text) });
  const error = await program.parseAsync(args, { from: 'user' }).then(
    () => undefined,
    (reason: CommanderError) => reason,
  );
  return { code: report(error), stdout, stderr };
}

test('--version', async () => {
  const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string };
  expect(await usage('--version')).toEqual({ code: 0, stdout: `${version}\n`, stderr: '' });
});

test('--help lists the commands and the exit codes', async () => {
  const { code, stdout } = await usage('--help');
  expect(code).toBe(0);
  for (const part of ['generate', 'chat', 'inspect', 'train', 'demo', 'build', 'Exit codes:', '130']) expect(stdout).toContain(part);
});

test.each(['generate', 'chat', 'inspect', 'train', 'demo', 'build'])('%s --help has examples', async (command) => {
  const { code, stdout } = await usage(command, '--help');
  expect(code).toBe(0);
  expect(stdout).toMatch(new RegExp(`Examples:\\n  \\$ .*spkv ${command}`));
});

test('without a command it shows the help and fails', async () => {
  expect(await usage()).toMatchObject({ code: 2, stdout: '', stderr: expect.stringMatching(/^Usage: spkv/) });
});

describe('refuses', () => {
  test.each<[name: string, args: string[], ...parts: string[]]>([
    ['an unknown command', ['inspct'], "unknown command 'inspct'", 'Did you mean inspect?'],
    ['an unknown option', ['generate', 'x', '--temprature', '1'], "unknown option '--temprature'", 'Did you mean --temperature?'],
    ['an option of another command', ['inspect', '--seed', '1'], "unknown option '--seed'"],
    ['a number out of range', ['generate', 'x', '--top-p', '1.5'], '--top-p', 'Expected a number above 0 and at most 1.'],
    ['a number that is none', ['chat', '--max-tokens', 'many'], '--max-tokens', 'Expected a whole number of at least 1.'],
    ['a threshold out of range', ['demo', '--threshold', '3'], '--threshold', 'Expected a number from 0 to 2.'],
    ['a size that is none', ['inspect', '--kv-memory', 'lots'], '--kv-memory', 'such as 512M'],
    ['an unknown element type', ['inspect', '--cache-dtype', 'f16'], '--cache-dtype', 'auto, f32, bf16, fp8'],
    ['an empty stop text', ['generate', 'x', '--stop', ''], '--stop', 'not empty'],
    ['an option without its value', ['generate', 'x', '--model'], '--model', 'argument missing'],
    ['too many arguments', ['generate', 'x', 'y'], 'too many arguments'],
    ['two prompts', ['generate', 'x', '--file', 'y'], 'not both'],
    ['ids that are none', ['generate', '1 two 3', '--ids'], '--ids takes token ids', '"two"'],
    ['training without data', ['train', '--model', 'x', '--out', 'y'], 'give the text to train on with --data'],
    ['training from nothing', ['train', '--data', 'x', '--out', 'y'], '--model', '--config'],
    ['training without a directory for the run', ['train', '--model', 'x', '--data', 'y'], "required option '-o, --out <dir>' not specified"],
    ['a misspelled setting of training', ['train', '--out', 'y', '--learning-rat', '1'], "unknown option '--learning-rat'", 'Did you mean --learning-rate?'],
    ['a setting of training out of range', ['train', '--out', 'y', '--soft-share', '2'], '--soft-share', 'Expected a number from 0 to 1.'],
    ['two texts', ['inspect', '--file', 'x', '--sample'], 'not both'],
  ])('%s', async (_, args, ...parts) => {
    const { code, stdout, stderr } = await usage(...args);
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    expect(stderr).toMatch(/^spkv: /);
    for (const part of parts) expect(stderr).toContain(part);
  });

  test('with exit code 2', async () => {
    const { code, stderr } = await spkv(['generat', 'x']);
    expect(code).toBe(2);
    expect(stderr).toMatch(/^spkv: unknown command 'generat'\n\(Did you mean generate\?\)\n/);
  });
});

test('build --if-needed says where the library is', async () => {
  const { code, stdout } = await spkv(['build', '--if-needed', '--json']);
  expect(code).toBe(0);
  expect(JSON.parse(stdout)).toEqual({ path: expect.stringMatching(/spkv\.node$/), built: false });
});
