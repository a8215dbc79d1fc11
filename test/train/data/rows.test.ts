import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { type Row, NO_TARGET, type RowOptions, Rows } from '../../../lib/train/data/rows.js';
import { documentsOf, splitDocuments } from '../../../lib/train/data/split.js';
import { packDocument, packTokens, TokenFile } from '../../../lib/train/data/token-file.js';
import { expectError } from '../../support/errors.js';
import { temporaryDirectory } from '../../support/files.js';

const root = temporaryDirectory();
let count = 0;

/** A token file in which every token is different: document d has `lengths[d]` tokens. */
async function tokenFile(lengths: readonly number[], names = ['a']): Promise<TokenFile> {
  const dir = join(root, String(count++));
  mkdirSync(dir);
  const total = lengths.reduce((sum, length) => sum + length, 0);
  writeFileSync(join(dir, 'tokens.bin'), packTokens(Array.from({ length: total }, (_, i) => i), 4));
  let end = 0;
  writeFileSync(join(dir, 'documents.bin'), Buffer.concat(lengths.map((length, d) => packDocument((end += length), Math.min(d, names.length - 1), d + 1))));
  return TokenFile.open(dir, names, '', 4, total, lengths.length);
}

const options = (changes: Partial<RowOptions> = {}): RowOptions => ({ sequenceLength: 8, boundaries: true, seed: 1, shuffle: true, ...changes });

async function readAll(rows: Rows, from = 0, number = rows.perPass): Promise<Row[]> {
  const result: Row[] = [];
  for (let i = 0; i < number; i++) result.push(await rows.read(from + i));
  return result;
}

const lengths = fc.array(fc.integer({ min: 1, max: 30 }), { minLength: 1, maxLength: 20 });

test('rows are whole, no token is lost or comes twice in a pass, and targets follow', async () => {
  await fc.assert(fc.asyncProperty(lengths, fc.integer({ min: 1, max: 12 }), fc.boolean(), fc.nat(100), fc.nat(3), async (sizes, sequenceLength, boundaries, seed, pass) => {
    const total = sizes.reduce((sum, size) => sum + size, 0);
    fc.pre(total > sequenceLength);
    await using tokens = await tokenFile(sizes);
    const rows = new Rows(tokens, documentsOf(tokens), options({ sequenceLength, boundaries, seed }));
    const read = await readAll(rows, pass * rows.perPass);
    const seen = read.flatMap(({ ids }) => [...ids]);
    expect(read.every(({ ids, targets }) => ids.length === sequenceLength && targets.length === sequenceLength)).toBe(true);
    expect(new Set(seen).size).toBe(seen.length);
    expect(seen.length).toBe(Math.floor((total - 1) / sequenceLength) * sequenceLength);
    const lastOf = new Set([...tokens.ends].map((end) => end - 1));
    const firstOf = new Set(sizes.map((_, d) => tokens.start(d)));
    for (const { ids, targets, starts } of read) {
      for (const [i, id] of ids.entries()) {
        if (boundaries) {
          // Inside a document the next token follows; at its end nothing does, and a new part begins.
          expect(targets[i]).toBe(lastOf.has(id) ? NO_TARGET : id + 1);
          expect(starts.includes(i)).toBe(i === 0 || firstOf.has(id));
        } else {
          expect(starts).toEqual([0]);
          if (i + 1 < ids.length) expect(targets[i]).toBe(ids[i + 1]);
          if (!lastOf.has(id)) expect(targets[i]).toBe(id + 1);
        }
      }
    }
  }), { numRuns: 60 });
});

test('the same seed gives the same rows in whatever order they are asked for; another seed and pass others', async () => {
  await using tokens = await tokenFile(Array.from({ length: 40 }, (_, i) => 3 + (i % 11)));
  const make = (seed: number) => new Rows(tokens, documentsOf(tokens), options({ seed }));
  const forwards = await readAll(make(1), 0, 60);
  const backwards = make(1);
  for (let i = 59; i >= 0; i--) expect(await backwards.read(i)).toEqual(forwards[i]);
  const flat = (rows: Row[]) => rows.flatMap(({ ids }) => [...ids]);
  const { perPass } = make(1);
  expect(flat(await readAll(make(2)))).not.toEqual(flat(forwards.slice(0, perPass)));
  expect(flat(await readAll(make(1), perPass))).not.toEqual(flat(forwards.slice(0, perPass)));
});

test('without shuffling documents come in their order', async () => {
  await using tokens = await tokenFile([5, 20]);
  const rows = new Rows(tokens, documentsOf(tokens), options({ shuffle: false }));
  const first = await rows.read(0);
  expect([...first.ids]).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
  expect([...first.targets]).toEqual([1, 2, 3, 4, NO_TARGET, 6, 7, 8]);
  expect(first.starts).toEqual([0, 5]);
  expect(await rows.read(rows.perPass)).toEqual(first);
});

test('refuses data that does not fill one row', async () => {
  await using tokens = await tokenFile([8]);
  await expectError(() => new Rows(tokens, documentsOf(tokens), options()), 'INVALID_ARGUMENT', 'at least 9 tokens of data for a sequence length of 8 but there are 8');
});

describe('splitDocuments', () => {
  const names = Array.from({ length: 200 }, (_, i) => `file-${i}`);

  test('sets documents aside by name, about the share asked for', async () => {
    await using tokens = await tokenFile(names.map(() => 2), names);
    const { train, validation } = splitDocuments(tokens, 0.2);
    expect(train.length + validation.length).toBe(200);
    expect(validation.length).toBeGreaterThan(20);
    expect(validation.length).toBeLessThan(60);
    // Whether a document is chosen does not depend on the others.
    await using fewer = await tokenFile(names.slice(0, 100).map(() => 2), names.slice(0, 100));
    expect(splitDocuments(fewer, 0.2).validation).toEqual(validation.filter(({ end }) => end <= 200));
  });

  test('at least one of two documents, the end of a single one, none where none is wanted', async () => {
    await using two = await tokenFile([3, 3], ['a', 'b']);
    expect(splitDocuments(two, 1e-9).validation).toHaveLength(1);
    await using one = await tokenFile([100]);
    expect(splitDocuments(one, 0.1)).toEqual({ train: [{ start: 0, end: 90 }], validation: [{ start: 90, end: 100 }] });
    expect(splitDocuments(one, 0)).toEqual({ train: [{ start: 0, end: 100 }], validation: [] });
  });
});
