import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { loadTokenizer } from '../../../lib/text/tokenizer.js';
import { Batches, joinRows } from '../../../lib/train/data/batches.js';
import { Needles } from '../../../lib/train/data/needles.js';
import { Rows } from '../../../lib/train/data/rows.js';
import { documentsOf } from '../../../lib/train/data/split.js';
import { packDocument, packTokens, TokenFile } from '../../../lib/train/data/token-file.js';
import { expectError } from '../../support/errors.js';
import { temporaryDirectory } from '../../support/files.js';
import { MODEL_DIR } from '../../support/golden.js';

const root = temporaryDirectory();
const tokenizer = (await loadTokenizer(MODEL_DIR))!;
const text = Array.from({ length: 500 }, (_, i) => `value_${i} = compute(${i * 7})\n`).join('');
writeFileSync(join(root, 'tokens.bin'), packTokens([...Buffer.from(text)], 2));
writeFileSync(join(root, 'documents.bin'), packDocument(text.length, 0, 1));
const tokens = await TokenFile.open(root, ['a'], '', 2, text.length, 1);
afterAll(() => tokens.dispose());
const rows = (sequenceLength = 1024) => new Rows(tokens, documentsOf(tokens), { sequenceLength, boundaries: false, seed: 3, shuffle: true });

test('six notes are hidden between lines and asked for at the end', async () => {
  const needles = new Needles(rows(), tokenizer, 5);
  for (let index = 0; index < 20; index++) {
    const { ids, targets, starts, values } = await needles.read(index);
    expect([ids.length, targets.length, starts]).toEqual([1024, 1024, [0]]);
    expect([...targets.subarray(0, -1)]).toEqual([...ids.subarray(1)]);
    const written = Buffer.from([...ids, targets.at(-1)!]).toString();
    const notes = [...written.matchAll(/^# note ([a-z]+-\d{3}) = (\d{6})$/gm)].map(([, name, value]) => [name!, value!] as const);
    const recalled = [...written.matchAll(/^# recall ([a-z]+-\d{3}) = (\d{6})$/gm)].map(([, name, value]) => [name!, value!] as const);
    expect(notes).toHaveLength(6);
    expect([...recalled].sort()).toEqual([...notes].sort());
    expect(written.lastIndexOf('# note')).toBeLessThan(0.8 * 1024);
    expect(written.indexOf('# recall')).toBeGreaterThan(800);
    expect(values.map(({ start, end }) => Buffer.from(targets.subarray(start, end)).toString())).toEqual(recalled.map(([, value]) => ` ${value}`));
  }
});

test('the same seed gives the same needles, another index others', async () => {
  const one = new Needles(rows(), tokenizer, 5);
  const other = new Needles(rows(), tokenizer, 5);
  await one.read(1);
  expect(await other.read(7)).toEqual(await one.read(7));
  expect(await one.read(8)).not.toEqual(await one.read(7));
});

test('refuses sequences too short for them', async () => {
  await expectError(() => new Needles(rows(256), tokenizer, 5).read(0), 'INVALID_ARGUMENT', /a sequence length of at least \d+ for needles but received 256/);
});

describe('batches', () => {
  const options = { batchSize: 8, microBatch: 2, needleShare: 0.2 };
  const make = (part?: { rank: number; worldSize: number }, microBatch = 2) => new Batches(rows(512), new Needles(rows(512), tokenizer, 5), { ...options, microBatch }, part);

  test('are micro-batches of rows put end to end', async () => {
    const micro = await make().read(3);
    expect(micro.map(({ ids, targets, offsets }) => [ids.length, targets.length, [...offsets]])).toEqual(Array.from({ length: 4 }, () => [1024, 1024, [0, 512, 1024]]));
    const whole = await make(undefined, 8).read(3);
    expect(micro.flatMap(({ ids }) => [...ids])).toEqual([...whole[0]!.ids]);
    const written = Buffer.from(whole[0]!.ids).toString();
    expect(written.match(/# recall/g)).toHaveLength(2 * 6);
  });

  test('the parts of all processes are the batch of one', async () => {
    const whole = (await make(undefined, 8).read(2))[0]!;
    const parts = await Promise.all([0, 1, 2, 3].map((rank) => make({ rank, worldSize: 4 }).read(2)));
    expect(parts.flat().flatMap(({ ids }) => [...ids])).toEqual([...whole.ids]);
  });

  test('offsets count the parts of every row', () => {
    const row = (starts: number[]) => ({ ids: new Int32Array(4), targets: new Int32Array(4), starts });
    expect([...joinRows([row([0, 3]), row([0]), row([0, 1])]).offsets]).toEqual([0, 3, 4, 8, 9, 12]);
  });
});
