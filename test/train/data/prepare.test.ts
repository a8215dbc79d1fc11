import { mkdirSync, readFileSync, statSync, utimesSync, writeFileSync, appendFileSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { jest } from '@jest/globals';
import { loadTokenizer } from '../../../lib/text/tokenizer.js';
import { type Encoding, openTokens, prepareTokens, type PrepareOptions } from '../../../lib/train/data/prepare.js';
import { findFiles } from '../../../lib/train/data/sources.js';
import type { TokenFile } from '../../../lib/train/data/token-file.js';
import { expectError } from '../../support/errors.js';
import { temporaryDirectory } from '../../support/files.js';
import { MODEL_DIR } from '../../support/golden.js';

const root = temporaryDirectory();
const tokenizer = (await loadTokenizer(MODEL_DIR))!;
const encoding: Encoding = { tokenizer, vocabSize: 320, documentStart: [0], documentEnd: [] };
let count = 0;

/** Files with these contents, and a fresh place for their tokens. */
async function given(contents: Record<string, string>): Promise<PrepareOptions> {
  const dir = join(root, String(count++));
  mkdirSync(join(dir, 'data'), { recursive: true });
  for (const [name, content] of Object.entries(contents)) writeFileSync(join(dir, 'data', name), content);
  return { dir: join(dir, 'tokens'), files: await findFiles([{ path: join(dir, 'data') }]), encoding, skipBad: false };
}

async function all(tokens: TokenFile): Promise<number[][]> {
  const ids = new Int32Array(tokens.tokens);
  await tokens.read(0, ids.length, ids, 0);
  await tokens.dispose();
  return Array.from({ length: tokens.documents }, (_, d) => [...ids.subarray(tokens.start(d), tokens.ends[d])]);
}

const bytes = (text: string) => [0, ...Buffer.from(text)];

test('documents become tokens, each with its beginning, and know where they came from', async () => {
  const tokens = await prepareTokens(await given({ 'a.txt': 'one\n', 'b.jsonl': '{"text":"two"}\n{"text":[7,8]}\n', 'c.txt': 'drei ü' }));
  expect(tokens.files).toEqual(['data/a.txt', 'data/b.jsonl', 'data/c.txt']);
  expect([...tokens.fileOf]).toEqual([0, 1, 1, 2]);
  expect([...tokens.lineOf]).toEqual([1, 1, 2, 1]);
  expect(await all(tokens)).toEqual([bytes('one\n'), bytes('two'), [7, 8], bytes('drei ü')]);
});

test('an end of documents can be asked for, and a large vocabulary takes four bytes a token', async () => {
  const options = await given({ 'a.jsonl': '{"text":[70000,1]}\n{"text":"x"}\n' });
  const tokens = await prepareTokens({ ...options, encoding: { ...encoding, vocabSize: 100_000, documentStart: [], documentEnd: [65_536] } });
  expect(statSync(join(options.dir, 'tokens.bin')).size).toBe(4 * 4);
  expect(await all(tokens)).toEqual([[70_000, 1], [120, 65_536]]);
});

test('unchanged sources are not read again; changed ones are', async () => {
  const options = await given({ 'a.txt': 'one\n' });
  await all(await prepareTokens(options));
  const read: number[] = [];
  const again = { ...options, onProgress: (done: number) => read.push(done) };
  expect(await all(await prepareTokens(again))).toEqual([bytes('one\n')]);
  expect(read).toEqual([]);
  writeFileSync(options.files[0]!.path, 'two\n');
  utimesSync(options.files[0]!.path, 1, 1);
  const files = await findFiles([{ path: options.files[0]!.path }]);
  expect(await all(await prepareTokens({ ...again, files }))).toEqual([bytes('two\n')]);
  expect(read).toEqual([4]);
});

test('a making that was stopped anywhere goes on to the same result', async () => {
  const big = Array.from({ length: 12_000 }, (_, i) => `line ${i} ${'x'.repeat(i % 17)}\n`).join('');
  const jsonl = Array.from({ length: 6000 }, (_, i) => `{"text":"record ${i} ${'y'.repeat(i % 23)}"}\n`).join('');
  const contents = { 'a.txt': big, 'b.jsonl': jsonl, 'c.txt': 'end\n' };
  const whole = await given(contents);
  const expected = await all(await prepareTokens(whole));
  const options = await given(contents);
  const now = jest.spyOn(performance, 'now');
  let clock = 0;
  now.mockImplementation(() => (clock += 10_000)); // the state is saved after every block
  try {
    for (let stops = 0; ; stops++) {
      const controller = new AbortController();
      let calls = 0;
      const attempt = prepareTokens({ ...options, signal: controller.signal, onProgress: () => ++calls === 2 && controller.abort(new Error('stop')) });
      const tokens = await attempt.catch((error: Error) => error);
      if (!(tokens instanceof Error)) {
        expect(stops).toBeGreaterThan(3);
        expect(await all(tokens)).toEqual(expected);
        break;
      }
      expect(tokens.message).toBe('stop');
      // What a kill may leave behind the saved state: bytes that it does not know of.
      appendFileSync(join(options.dir, 'tokens.bin'), 'rubbish');
      appendFileSync(join(options.dir, 'documents.bin'), 'rubbish');
    }
  } finally {
    now.mockRestore();
  }
  for (const name of ['tokens.bin', 'documents.bin']) {
    expect(readFileSync(join(options.dir, name)).equals(readFileSync(join(whole.dir, name)))).toBe(true);
  }
});

test('bad data fails with file and line, or is left out when asked', async () => {
  const options = await given({ 'a.txt': 'one\n', 'b.jsonl': '{"text":"two"}\n{"txt":""}\n{"text":"three"}\n' });
  await expectError(() => prepareTokens(options), 'FILE', /data.b\.jsonl:2: expected text, or token ids, in the field "text", found only "txt"/);
  const warnings: string[] = [];
  const tokens = await prepareTokens({ ...options, skipBad: true, onWarning: (message) => warnings.push(message) });
  expect(await all(tokens)).toEqual([bytes('one\n'), bytes('two'), bytes('three')]);
  expect(warnings).toEqual([expect.stringContaining('b.jsonl:2'), '1 pieces of data cannot be used and were left out']);
});

test('empty files are left out with a warning', async () => {
  const warnings: string[] = [];
  const options = await given({ '__init__.py': '', 'a.py': 'a\n' });
  expect(await all(await prepareTokens({ ...options, onWarning: (message) => warnings.push(message) }))).toEqual([bytes('a\n')]);
  expect(warnings).toEqual([expect.stringMatching(/__init__\.py is empty and was left out/)]);
});

test('ids outside the vocabulary, and text without a tokenizer, are refused', async () => {
  const options = await given({ 'a.jsonl': '{"text":[1]}\n{"text":[320]}\n' });
  await expectError(() => prepareTokens(options), 'FILE', 'a.jsonl:2: expected token ids below 320', 'found 320');
  const text = await given({ 'a.txt': 'x\n' });
  await expectError(() => prepareTokens({ ...text, encoding: { ...encoding, tokenizer: undefined } }), 'UNSUPPORTED', 'no tokenizer.json');
});

test('a token file can be opened by itself, with the tokenizer that made it', async () => {
  const options = await given({ 'a.txt': 'one\n' });
  await all(await prepareTokens(options));
  expect(await all(await openTokens(options.dir, encoding))).toEqual([bytes('one\n')]);
  await expectError(() => openTokens(options.dir, { ...encoding, documentEnd: [1] }), 'FILE', 'found those of another');
  truncateSync(join(options.dir, 'tokens.bin'), 4);
  await expectError(() => openTokens(options.dir, encoding), 'FILE', 'expected 10 bytes, found 4');
});
