import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { GenerationResult } from '../../lib/index.js';
import { type CliOptions, jsonLines, spkv } from '../support/cli.js';
import { temporaryDirectory } from '../support/files.js';
import { MODEL_DIR } from '../support/golden.js';

const dir = temporaryDirectory();
const generate = (args: string[], options?: CliOptions) => spkv(['generate', '--model', MODEL_DIR, ...args], options);
const PROMPT = 'class Stack:\n    """';

test('streams the text to stdout and a summary to stderr', async () => {
  const { code, stdout, stderr } = await generate([PROMPT, '--max-tokens', '40']);
  expect(code).toBe(0);
  expect(stdout).toHaveLength(40);
  expect(stderr).toMatch(/^\[read 21 tokens in .* · wrote 40 in .* tokens\/s\), length limit\]\n\[cache at τ 0.5: .* pairs held .* dense.*\]\n$/);
});

test('--json gives the same text, from an argument, a file or stdin', async () => {
  const file = join(dir, 'prompt.txt');
  writeFileSync(file, PROMPT);
  const options = ['--json', '-n', '40'];
  const results = await Promise.all([generate([PROMPT, ...options]), generate(['--file', file, ...options]), generate(options, { stdin: PROMPT })]);
  const [first, ...others] = results.map((result) => {
    expect({ code: result.code, stderr: result.stderr }).toEqual({ code: 0, stderr: '' });
    return jsonLines<GenerationResult>(result)[0]!;
  });
  expect(first).toMatchObject({ finishReason: 'length', usage: { promptTokens: PROMPT.length + 1, completionTokens: 40 }, cache: { threshold: 0.5, window: 128 } });
  expect(Buffer.from(first!.ids).toString()).toBe(first!.text);
  for (const { text, ids } of others) expect({ text, ids }).toEqual({ text: first!.text, ids: first!.ids });
});

test('token ids, a threshold, stop texts and sampling options reach the model', async () => {
  const ids = [0, ...Buffer.from(PROMPT)].join(' ');
  const sampling = ['--temperature', '0.8', '--top-k', '50', '--top-p', '0.95', '--min-p', '0.01', '--repetition-penalty', '1.1', '--presence-penalty', '-0.1', '--seed', '7'];
  const args = [ids, '--ids', '--json', '-n', '60', '--threshold', '0.7', '--cache-dtype', 'f32', '--kv-memory', '64M', '--threads', '1', '--device', 'cpu', ...sampling];
  const [one, two, stopped] = await Promise.all([generate(args), generate(args), generate([...args, '--stop', '.', '--stop', '\n'])]);
  const [a] = jsonLines<GenerationResult>(one);
  expect(a).toMatchObject({ cache: { threshold: 0.7 }, usage: { promptTokens: PROMPT.length + 1 } });
  expect(jsonLines<GenerationResult>(two)[0]!.ids).toEqual(a!.ids);
  const [cut] = jsonLines<GenerationResult>(stopped);
  expect(cut).toMatchObject({ finishReason: 'stop', text: a!.text.split(/[.\n]/)[0] });
});

test('text within a JSON schema or a regular expression', async () => {
  const file = join(dir, 'schema.json');
  writeFileSync(file, JSON.stringify({ type: 'object', properties: { name: { type: 'string', maxLength: 8 }, sizes: { type: 'array', items: { type: 'integer' }, maxItems: 2 } }, required: ['name', 'sizes'] }));
  const sampling = ['--temperature', '1', '--json', '-n', '200'];
  const [json, regex] = await Promise.all([generate(['x = ', '--json-schema', file, ...sampling]), generate(['x = ', '--regex', 'a{1,3}\\d', ...sampling])]);
  const [written] = jsonLines<GenerationResult>(json);
  expect(written!.finishReason).toBe('stop');
  expect(JSON.parse(written!.text)).toEqual({ name: expect.any(String), sizes: expect.any(Array) });
  expect(jsonLines<GenerationResult>(regex)[0]).toMatchObject({ finishReason: 'stop', text: expect.stringMatching(/^a{1,3}\d$/) });
});

test('Ctrl-C ends it with what there is, a summary and 130', async () => {
  const { code, stdout, stderr } = await generate([PROMPT, '-n', '4000'], { pause: { at: /^[^]{20}/, meanwhile: (child) => child.kill('SIGINT') } });
  expect(code).toBe(130);
  expect(stdout.length).toBeLessThan(4000);
  expect(stderr).toMatch(/, interrupted\]\n\[cache at/);
});

test('a reader that leaves early is no failure', async () => {
  expect(await generate([PROMPT, '-n', '4000'], { pause: { at: /^[^]{5}/, meanwhile: ({ stdout }) => stdout.destroy() } })).toMatchObject({ code: 0, stderr: '' });
});

describe('refuses', () => {
  test.each<[name: string, args: string[], code: number, ...parts: string[]]>([
    ['too little memory', ['x', '--kv-memory', '1k'], 2, 'INVALID_ARGUMENT', '524288 bytes for --kv-memory'],
    ['no prompt', [], 2, 'the prompt is empty'],
    ['an id outside the vocabulary', ['320', '--ids'], 1, 'OUT_OF_RANGE', '0 to 319'],
    ['a prompt that the cache cannot hold', ['a'.repeat(1500), '--kv-memory', '1M', '--threshold', '0'], 1, 'POOL_EXHAUSTED', '--kv-memory gives'],
    ['a missing model', ['x', '--model', 'no-such-model'], 1, 'FILE', 'no-such-model'],
    ['two constraints', ['x', '--regex', 'a', '--json-schema', 'a.json'], 2, '--json-schema or --regex, not both'],
    ['a schema that is none', ['x', '--json-schema', 'package.json'], 1, 'UNSUPPORTED', 'The keyword "name" at # is not supported'],
    ['a schema file that is no JSON', ['x', '--json-schema', 'README.md'], 1, 'FILE', 'README.md'],
    ['a wrong expression', ['x', '--regex', '('], 2, 'INVALID_ARGUMENT', 'a regular expression'],
    ['a missing prompt file', ['--file', 'no-such-file.txt'], 1, 'FILE', 'no-such-file.txt'],
    ['a prompt file that is not text', ['--file', join(MODEL_DIR, 'model.safetensors')], 1, 'FILE', 'not UTF-8'],
    ['a device that is not there', ['x', '--device', 'cuda:9999'], 1, 'DEVICE', 'cuda:9999'],
    ['a device that is none', ['x', '--device', 'gpu'], 2, 'INVALID_ARGUMENT', 'cuda:0 for --device but received "gpu"'],
    ['threads on a GPU', ['x', '--device', 'cuda:0', '--threads', '2'], 2, 'INVALID_ARGUMENT', '"threads"'],
  ])('%s', async (_, args, expected, ...parts) => {
    const { code, stdout, stderr } = await generate(args);
    expect({ code, stdout }).toEqual({ code: expected, stdout: '' });
    expect(stderr).toMatch(/^spkv: [^\n]+\n/);
    for (const part of parts) expect(stderr).toContain(part);
    expect(stderr).not.toContain('    at ');
  });

  test('what is not text on stdin', async () => {
    const { code, stderr } = await generate([], { stdin: Buffer.of(0x61, 0xff) });
    expect({ code, stderr }).toEqual({ code: 1, stderr: 'spkv: FILE: stdin cannot be read: it is not UTF-8 text\n' });
  });

  test('with a stack trace when SPKV_DEBUG is set', async () => {
    const { stderr } = await generate(['x', '--model', 'no-such-model'], { env: { SPKV_DEBUG: '1' } });
    expect(stderr).toMatch(/\n {4}at /);
  });
});
