import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { findFiles, resolveSources } from '../../../lib/train/data/sources.js';
import { expectError } from '../../support/errors.js';
import { temporaryDirectory } from '../../support/files.js';

const root = temporaryDirectory();
mkdirSync(join(root, 'code/deep'), { recursive: true });
for (const name of ['b.py', 'a.txt', 'deep/c.py', 'd.jsonl', '.hidden.py']) writeFileSync(join(root, 'code', name), `${name}\n`);
const code = join(root, 'code');

const names = async (...sources: Parameters<typeof resolveSources>[0][]) => {
  const files = await findFiles(sources.flatMap((source) => resolveSources(source, 'data')));
  return files.map(({ name, format }) => `${name} ${format}`);
};

test('a directory gives its files by name, but not hidden ones', async () => {
  expect(await names(code)).toEqual(['code/a.txt text', 'code/b.py text', 'code/d.jsonl jsonl', 'code/deep/c.py text']);
});

test('patterns choose files of a directory', async () => {
  expect(await names({ path: code, pattern: '**/*.py' })).toEqual(['code/b.py text', 'code/deep/c.py text']);
  expect(await names({ path: code, pattern: ['*.py', '*.txt'] })).toEqual(['code/a.txt text', 'code/b.py text']);
});

test('a file that several sources give is taken once', async () => {
  expect(await names([join(code, 'b.py'), { path: code, pattern: '*.py' }])).toEqual(['b.py text']);
});

test('sizes and times are told, and the field of JSONL', async () => {
  const [file] = await findFiles([{ path: join(code, 'd.jsonl'), field: 'body' }]);
  expect(file).toMatchObject({ format: 'jsonl', field: 'body', bytes: 8, modified: expect.any(Number) });
});

test('refuses what is not there, what fits nothing, and unknown options', async () => {
  await expectError(() => findFiles([{ path: join(root, 'none') }]), 'FILE', 'none: expected a file or a directory of training text, found nothing');
  await expectError(() => findFiles([{ path: code, pattern: '*.rs' }]), 'FILE', 'files that fit *.rs, found none');
  await expectError(() => findFiles([{ path: join(code, 'b.py'), pattern: '*.py' }]), 'INVALID_ARGUMENT', 'it is a file');
  await expectError(() => resolveSources([], 'data'), 'INVALID_ARGUMENT', 'at least one file or directory for data');
  await expectError(() => resolveSources({ path: 'x', patern: '*' } as never, 'data'), 'INVALID_ARGUMENT', 'did you mean "pattern"?');
  await expectError(() => resolveSources({ path: 3 } as never, 'data'), 'INVALID_ARGUMENT', 'a string for path of data');
});
