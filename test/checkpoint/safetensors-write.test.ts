import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { FILE_DTYPES, tensorBytes } from '../../lib/checkpoint/dtype.js';
import { readSafetensorsHeader } from '../../lib/checkpoint/safetensors.js';
import { writeSafetensors, type TensorToWrite } from '../../lib/checkpoint/safetensors-write.js';
import { expectError } from '../support/errors.js';
import { temporaryDirectory } from '../support/files.js';

const dir = temporaryDirectory();
const path = join(dir, 'model.safetensors');

test('what is written is read back', async () => {
  const a = Float32Array.of(1, 2, 3, 4, 5, 6);
  const b = new Uint16Array(new ArrayBuffer(64), 6, 3).fill(7); // a view into a larger buffer
  await writeSafetensors(
    path,
    [
      { name: 'b', dtype: 'BF16', shape: [3], data: b },
      { name: 'a', dtype: 'F32', shape: [2, 3], data: () => Promise.resolve(a) },
      { name: '__proto__', dtype: 'U8', shape: [], data: Uint8Array.of(9) },
    ],
    { format: 'pt' },
  );
  const { tensors, metadata, dataStart } = await readSafetensorsHeader(path);
  const bytes = readFileSync(path);
  const data = (name: string) => bytes.subarray(tensors.get(name)!.offset, tensors.get(name)!.offset + tensors.get(name)!.bytes);
  expect(metadata).toEqual({ format: 'pt' });
  expect(dataStart % 8).toBe(0);
  expect(data('a')).toEqual(Buffer.from(a.buffer));
  expect(data('b')).toEqual(Buffer.from([7, 0, 7, 0, 7, 0]));
  expect(data('__proto__')).toEqual(Buffer.from([9]));
});

test('any set of tensors is read back, aligned to its element size', async () => {
  const shape = fc.array(fc.nat(4), { maxLength: 3 });
  const list = fc.uniqueArray(fc.record({ name: fc.string({ unit: 'grapheme' }), dtype: fc.constantFrom(...FILE_DTYPES), shape }), { selector: (t) => t.name });
  await fc.assert(
    fc.asyncProperty(list, async (tensors) => {
      await writeSafetensors(
        path,
        tensors.map((tensor, i) => ({ ...tensor, data: new Uint8Array(tensorBytes(tensor.dtype, tensor.shape)!).fill(i) })),
      );
      const header = await readSafetensorsHeader(path);
      const bytes = readFileSync(path);
      expect(header.tensors.size).toBe(tensors.length);
      for (const [i, { name, dtype, shape }] of tensors.entries()) {
        const found = header.tensors.get(name)!;
        expect(found).toMatchObject({ dtype, shape });
        expect(found.offset % (tensorBytes(dtype, []) ?? 1)).toBe(0);
        expect(bytes.subarray(found.offset, found.offset + found.bytes).every((byte) => byte === i)).toBe(true);
      }
    }),
    { numRuns: 50 },
  );
});

test('refuses malformed tensors', async () => {
  const good: TensorToWrite = { name: 'w', dtype: 'F32', shape: [2], data: new Float32Array(2) };
  const write = (changes: object) => () => writeSafetensors(join(dir, 'refused'), [{ ...good, ...changes }]);
  await expectError(write({ name: 3 }), 'INVALID_ARGUMENT', 'tensors[].name', 'received 3');
  await expectError(write({ name: '__metadata__' }), 'INVALID_ARGUMENT', '__metadata__');
  await expectError(write({ dtype: 'BF61' }), 'INVALID_ARGUMENT', 'dtype of tensor "w"', 'did you mean "BF16"');
  await expectError(write({ shape: [1, -2] }), 'INVALID_ARGUMENT', 'shape of tensor "w"');
  await expectError(write({ shape: [2 ** 53 - 1] }), 'INVALID_ARGUMENT', 'shape of tensor "w"');
  await expectError(write({ data: [1, 2] }), 'INVALID_ARGUMENT', 'data of tensor "w"');
  await expectError(write({ data: new Float32Array(3) }), 'SHAPE', 'Expected 8 bytes (F32 [2])', 'received 12');
  await expectError(write({ data: () => new Float32Array(1) }), 'SHAPE', 'received 4');
  await expectError(() => writeSafetensors(path, [good, good]), 'INVALID_ARGUMENT', 'every tensor name once');
  await expectError(() => writeSafetensors(path, [null as never]), 'INVALID_ARGUMENT', 'tensors');
  await expectError(() => writeSafetensors(path, [good], { step: 3 } as never), 'INVALID_ARGUMENT', 'metadata');
  await expectError(() => writeSafetensors(5 as never, [good]), 'INVALID_ARGUMENT', 'path');
  expect(readdirSync(dir)).toEqual(['model.safetensors']);
});

test('a write that fails leaves the old file and nothing else', async () => {
  writeFileSync(path, 'old');
  const first: TensorToWrite = { name: 'a', dtype: 'F32', shape: [1], data: new Float32Array(1) };
  const failing: TensorToWrite = { ...first, name: 'b', data: () => Promise.reject(new Error('device lost')) };
  await expect(writeSafetensors(path, [first, failing])).rejects.toThrow('device lost');
  expect(readFileSync(path, 'utf8')).toBe('old');
  expect(readdirSync(dir)).toEqual(['model.safetensors']);
  await expectError(() => writeSafetensors(join(dir, 'absent/model.safetensors'), [first]), 'FILE', 'could not be written (ENOENT)');
});
