import { statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import type { SpkvError } from '../../../lib/errors.js';
import { type Piece, readBlocks } from '../../../lib/train/data/documents.js';
import type { SourceFile } from '../../../lib/train/data/sources.js';
import { expectError } from '../../support/errors.js';
import { temporaryDirectory } from '../../support/files.js';

const root = temporaryDirectory();

function source(name: string, content: string | Buffer): SourceFile {
  const path = join(root, name);
  writeFileSync(path, content);
  return { path, name, format: name.endsWith('.jsonl') ? 'jsonl' : 'text', field: 'text', bytes: statSync(path).size, modified: 0 };
}

async function read(file: SourceFile, from = { offset: 0, line: 1 }) {
  const errors: SpkvError[] = [];
  const pieces: Piece[] = [];
  const cursors: { offset: number; line: number }[] = [];
  for await (const block of readBlocks(file, from, (error) => errors.push(error))) {
    pieces.push(...block.pieces);
    cursors.push(block.next);
  }
  return { pieces, errors: errors.map(({ code, message }) => `${code} ${message.replace(root, '')}`), cursors };
}

test('a text file is one document', async () => {
  const { pieces } = await read(source('a.txt', '\u{FEFF}def f():\n    return "ü"\n'));
  expect(pieces).toEqual([{ content: 'def f():\n    return "ü"\n', line: 1, first: true, last: true }]);
});

const lines = fc.array(fc.oneof(fc.string({ unit: 'grapheme', maxLength: 40 }), fc.constantFrom('', '  indented', 'plain')), { minLength: 1, maxLength: 12 });

test('pieces of a large text put together are the text, and reading can go on after any of them', async () => {
  await fc.assert(fc.asyncProperty(lines, async (some) => {
    const text = `${some.join('\n').replaceAll('\u{FEFF}', '')}\n`.repeat(Math.ceil(150_000 / (some.join('\n').length + 1)));
    const file = source('large.txt', text);
    const { pieces, cursors, errors } = await read(file);
    expect(errors).toEqual([]);
    expect(pieces.map(({ content }) => content).join('') === text).toBe(true);
    expect(pieces.map(({ first, last }) => [first, last])).toEqual(pieces.map((_, i) => [i === 0, i === pieces.length - 1]));
    for (const [i, piece] of pieces.entries()) {
      const before = pieces.slice(0, i).map(({ content }) => content as string).join('');
      expect(piece.line).toBe(before.split('\n').length);
      if (i > 0) expect(/^[^\s]/u.test(piece.content as string) && before.endsWith('\n')).toBe(true);
    }
    const middle = Math.floor(cursors.length / 2);
    expect((await read(file, cursors[middle]!)).pieces).toEqual(pieces.slice(middle + 1));
  }), { numRuns: 15 });
});

test('every line of JSONL is a document: text, or token ids', async () => {
  const { pieces, errors } = await read(source('a.jsonl', '{"text":"one"}\n\n{"text":[1,2,3]}\n{"text":"last, without an end of line"}'));
  expect(errors).toEqual([]);
  expect(pieces.map(({ content, line }) => [line, content])).toEqual([[1, 'one'], [3, [1, 2, 3]], [4, 'last, without an end of line']]);
});

test('long JSONL can be read on from any place', async () => {
  const file = source('long.jsonl', Array.from({ length: 9000 }, (_, i) => `{"text":"line ${i}"}\n`).join(''));
  const { pieces, cursors } = await read(file);
  expect(pieces).toHaveLength(9000);
  expect(cursors.length).toBeGreaterThan(2);
  const rest = await read(file, cursors[1]!);
  expect(rest.pieces[0]).toEqual(pieces[cursors[1]!.line - 1]);
  expect(rest.pieces).toHaveLength(9000 - (cursors[1]!.line - 1));
});

describe('names file and line of', () => {
  test.each<[name: string, file: string, content: string | Buffer, expected: string]>([
    ['broken JSON', 'b.jsonl', '{"text":"a"}\n{"text":\n', 'FILE /b.jsonl:2: expected a JSON object, found a syntax error'],
    ['a record that is no object', 'c.jsonl', '[1]\n', 'FILE /c.jsonl:1: expected a JSON object, found'],
    ['a missing field', 'd.jsonl', '{"text":"a"}\n\n{"body":"b"}\n', 'FILE /d.jsonl:3: expected text, or token ids, in the field "text", found only "body"'],
    ['a field of another kind', 'e.jsonl', '{"text":7}\n', 'FILE /e.jsonl:1: expected text, or token ids, in the field "text", found 7'],
    ['an empty text', 'f.jsonl', '{"text":""}\n', 'FILE /f.jsonl:1: expected text, or token ids, in the field "text", found nothing in it'],
    ['ids that are none', 'g.jsonl', '{"text":[1,-2]}\n', 'FILE /g.jsonl:1: expected text, or token ids'],
    ['bytes that are not UTF-8 in JSONL', 'h.jsonl', Buffer.concat([Buffer.from('{"text":"a"}\n{"text":"'), Buffer.from([0xff]), Buffer.from('"}\n')]), 'FILE /h.jsonl:2: expected UTF-8 text, found other bytes'],
    ['bytes that are not UTF-8 in text', 'i.txt', Buffer.concat([Buffer.from('a\nb\nc'), Buffer.from([0xc3]), Buffer.from('\nd\n')]), 'FILE /i.txt:3: expected UTF-8 text, found other bytes'],
  ])('%s', async (_, name, content, expected) => {
    const { errors } = await read(source(name, content));
    expect(errors).toEqual([expect.stringContaining(expected)]);
  });
});

test('a file that has become shorter is an error', async () => {
  const file = source('short.txt', 'abc\n');
  await expectError(() => read({ ...file, bytes: 10 }), 'FILE', 'the file was changed while it was read');
});
