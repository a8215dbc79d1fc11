import { mkdirSync, openSync, readFileSync, truncateSync, writeFileSync, writeSync, closeSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { readSafetensorsHeader } from '../../lib/checkpoint/safetensors.js';
import { expectError, survives } from '../support/errors.js';
import { damage, rawSafetensors, temporaryDirectory } from '../support/files.js';
import { MODEL_DIR } from '../support/golden.js';

const dir = temporaryDirectory();
let files = 0;

function write(bytes: Buffer): string {
  const path = join(dir, `${files++}.safetensors`);
  writeFileSync(path, bytes);
  return path;
}

const read = (header: unknown, dataBytes = 0) => readSafetensorsHeader(write(rawSafetensors(header, dataBytes)));
const tensor = (dtype: unknown, shape: unknown, begin: unknown, end: unknown) => ({ dtype, shape, data_offsets: [begin, end] });

test('reads the header of the golden model', async () => {
  const path = join(MODEL_DIR, 'model.safetensors');
  const header = await readSafetensorsHeader(path);
  expect(header).toMatchObject({ path, dataStart: 8 + 11816, fileBytes: 12246096, metadata: { format: 'pt' } });
  expect(header.tensors.size).toBe(8 * 13 + 2);
  expect(header.tensors.get('model.layers.0.self_attn.k_proj.weight')).toEqual({
    name: 'model.layers.0.self_attn.k_proj.weight',
    file: path,
    dtype: 'BF16',
    shape: [128, 256],
    offset: 8 + 11816 + 1246208,
    bytes: 128 * 256 * 2,
  });
});

test('gives absolute offsets in data order, for scalars and empty tensors too', async () => {
  const header = await read({ b: tensor('F32', [2, 3], 8, 32), a: tensor('F64', [], 0, 8), none: tensor('I64', [4, 0], 8, 8) }, 24 + 8);
  expect([...header.tensors.keys()]).toEqual(['a', 'none', 'b']);
  expect(header.tensors.get('b')).toMatchObject({ offset: header.dataStart + 8, bytes: 24 });
  expect(header.metadata).toEqual({});
});

test('keeps tensors named like members of Object.prototype', async () => {
  const header = await read(`{"__proto__":${JSON.stringify(tensor('U8', [1], 0, 1))},"constructor":${JSON.stringify(tensor('U8', [2], 1, 3))}}`, 3);
  expect([...header.tensors.keys()]).toEqual(['__proto__', 'constructor']);
});

test('does not read the data', async () => {
  const bytes = 2 ** 40; // sparse: a terabyte that no disk holds
  const header = rawSafetensors({ big: tensor('BF16', [2 ** 20, 2 ** 19], 0, bytes) });
  const path = write(header);
  truncateSync(path, header.length + bytes);
  expect((await readSafetensorsHeader(path)).tensors.get('big')!.bytes).toBe(bytes);
});

test('refuses what is not a file', async () => {
  await expectError(() => readSafetensorsHeader(join(dir, 'absent')), 'FILE', 'absent: expected a file, found nothing');
  await expectError(() => readSafetensorsHeader(join(dir, 'a/b/absent')), 'FILE', 'found nothing');
  mkdirSync(join(dir, 'folder'));
  await expectError(() => readSafetensorsHeader(join(dir, 'folder')), 'FILE', 'folder: expected a file, found a directory');
  await expectError(() => readSafetensorsHeader('/dev/null'), 'FILE', '/dev/null: expected a file, found something else');
});

test('refuses a bad header length', async () => {
  const length = (value: bigint, rest: number) => {
    const bytes = Buffer.alloc(8 + rest);
    bytes.writeBigUInt64LE(value);
    return () => readSafetensorsHeader(write(bytes));
  };
  await expectError(() => readSafetensorsHeader(write(Buffer.alloc(5))), 'FILE', 'at least the 8 bytes', 'found 5 bytes');
  await expectError(length(0n, 10), 'FILE', 'the header length', 'found 0');
  await expectError(length(100_000_001n, 10), 'FILE', '2 to 100000000 bytes', 'found 100000001');
  await expectError(length(2n ** 64n - 1n, 10), 'FILE', 'found 18446744073709551615');
  await expectError(length(11n, 10), 'FILE', 'at least 19 bytes', 'found 18 bytes (truncated?)');
});

test('refuses a header that is not one JSON object', async () => {
  await expectError(() => read('{"a": }'), 'FILE', 'expected JSON, found a syntax error');
  await expectError(() => read('[1, 2]'), 'FILE', 'expected a JSON object, found [1, 2]');
  await expectError(() => read('null'), 'FILE', 'expected a JSON object, found null');
  const path = write(Buffer.concat([rawSafetensors('{"a?"}').subarray(0, 8), Buffer.from([0x7b, 0x22, 0xff, 0x3f, 0x22, 0x7d])]));
  await expectError(() => readSafetensorsHeader(path), 'FILE', 'expected UTF-8');
  await expectError(() => read(`${'['.repeat(100_000)}`), 'FILE', 'syntax error');
});

test('refuses a name written twice, however it is spelled', async () => {
  const entry = JSON.stringify(tensor('U8', [1], 0, 1));
  await expectError(() => read(`{"a":${entry},"a":${entry}}`, 1), 'FILE', 'every key once, found "a" twice');
  await expectError(() => read(`{"a":${entry} , "\\u0061" :${entry}}`, 1), 'FILE', 'found "a" twice');
  await expectError(() => read('{"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}', 1), 'FILE', 'found "dtype" twice');
});

test('refuses malformed tensors, naming tensor and field', async () => {
  await expectError(() => read({ w: 3 }), 'FILE', 'tensor "w"', 'found 3');
  await expectError(() => read({ w: tensor('F12', [1], 0, 1) }, 1), 'FILE', /one of BOOL, .* for dtype of tensor "w", found "F12"/);
  await expectError(() => read({ w: tensor('constructor', [1], 0, 1) }, 1), 'FILE', 'found "constructor"');
  await expectError(() => read({ w: { shape: [1], data_offsets: [0, 1] } }, 1), 'FILE', 'dtype of tensor "w", found nothing');
  for (const shape of [[-1], [1.5], ['2'], 7, null, [2 ** 53]]) {
    await expectError(() => read({ w: tensor('U8', shape, 0, 1) }, 1), 'FILE', 'shape of tensor "w"');
  }
  for (const offsets of [[0], [0, 1, 2], [-1, 0], [0, 0.5], 'x', [0, 2 ** 60]]) {
    await expectError(() => read({ w: { dtype: 'U8', shape: [1], data_offsets: offsets } }, 1), 'FILE', 'data_offsets of tensor "w"');
  }
  await expectError(() => read({ w: tensor('U8', [1], 1, 0) }, 1), 'FILE', 'an end not before its begin', 'found [1, 0]');
  await expectError(() => read({ w: tensor('U8', [9], 0, 9) }, 8), 'FILE', 'an end of at most 8', 'found 9');
});

test('refuses sizes that overflow', async () => {
  const huge = 2 ** 52;
  await expectError(() => read({ w: tensor('U8', [huge, huge], 0, 1) }, 1), 'FILE', 'shape of tensor "w"', 'a size that a file can have');
  await expectError(() => read({ w: tensor('F64', [huge], 0, 1) }, 1), 'FILE', 'a size that a file can have');
});

test('refuses data of another length than dtype and shape say', async () => {
  await expectError(() => read({ w: tensor('F32', [2, 3], 0, 20) }, 20), 'FILE', '24 bytes (F32 [2, 3])', 'data of tensor "w", found 20 bytes');
});

test('refuses gaps, overlaps and trailing bytes', async () => {
  await expectError(() => read({ a: tensor('U8', [2], 0, 2), b: tensor('U8', [2], 3, 5) }, 5), 'FILE', 'tensor "b"', 'leaves a gap');
  await expectError(() => read({ a: tensor('U8', [2], 0, 2), b: tensor('U8', [2], 1, 3) }, 3), 'FILE', 'tensor "b"', 'overlaps');
  await expectError(() => read({ a: tensor('U8', [2], 1, 3) }, 3), 'FILE', 'tensor "a"', 'leaves a gap');
  await expectError(() => read({ a: tensor('U8', [2], 0, 2) }, 5), 'FILE', 'where the last tensor ends');
});

test('refuses metadata that is not strings', async () => {
  await expectError(() => read({ __metadata__: [] }), 'FILE', '"__metadata__"', 'found []');
  await expectError(() => read({ __metadata__: { step: 3 } }), 'FILE', '"step" in "__metadata__"', 'found 3');
});

test('a damaged header gives a valid result or a file error', async () => {
  const original = readFileSync(join(MODEL_DIR, 'model.safetensors'));
  const headerEnd = 8 + Number(original.readBigUInt64LE());
  const path = write(original);
  // Only the header is rewritten for every run: the file keeps its length unless it is cut.
  await fc.assert(
    fc.asyncProperty(damage(headerEnd), async (change) => {
      const head = change(original.subarray(0, headerEnd));
      if (head.length < headerEnd) {
        return survives(() => readSafetensorsHeader(write(head)));
      }
      const handle = openSync(path, 'r+');
      writeSync(handle, head, 0, headerEnd, 0);
      closeSync(handle);
      return survives(async () => {
        const { tensors } = await readSafetensorsHeader(path);
        let end = headerEnd;
        for (const { offset, bytes } of tensors.values()) {
          expect(offset).toBe(end);
          end += bytes;
        }
        expect(end).toBe(original.length);
      });
    }),
    { numRuns: 300 },
  );
});

test('small damaged headers give a valid result or a file error', async () => {
  const original = rawSafetensors({ __metadata__: { a: 'b' }, x: tensor('F32', [2, 1], 0, 8), y: tensor('U8', [0], 8, 8), z: tensor('I16', [1], 8, 10) }, 10);
  await fc.assert(
    fc.asyncProperty(damage(original.length), (change) => {
      const path = join(dir, 'damaged.safetensors');
      writeFileSync(path, change(original));
      return survives(() => readSafetensorsHeader(path));
    }),
    { numRuns: 500 },
  );
});
