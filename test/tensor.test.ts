import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { bf16ToFloats, floatsToBf16, liveAllocations, SpkvError, Tensor } from '../lib/ops.js';
import * as ops from '../lib/ops.js';
import { collectGarbage, testDevice } from './support/device.js';
import { expectError } from './support/errors.js';
import { MODEL_DIR } from './support/golden.js';

const device = testDevice();

const code = (run: () => unknown): string => {
  try {
    run();
  } catch (error) {
    expect(error).toBeInstanceOf(SpkvError);
    return (error as SpkvError).code;
  }
  return 'no error';
};

test('a tensor reads back what was written, through views and strides', async () => {
  const tensor = device.from(Float32Array.from({ length: 24 }, (_, i) => i), [2, 3, 4]);
  expect(Array.from(await tensor.at(1).read())).toEqual([12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23]);
  const columns = tensor.slice(2, 1, 3);
  expect(columns.shape).toEqual([2, 3, 2]);
  expect(Array.from(await columns.read())).toEqual([1, 2, 5, 6, 9, 10, 13, 14, 17, 18, 21, 22]);
  columns.write(new Float32Array(12).fill(-1));
  expect(Array.from(await tensor.at(0).read())).toEqual([0, -1, -1, 3, 4, -1, -1, 7, 8, -1, -1, 11]);
  expect(tensor.split(2).shape).toEqual([2, 3, 2, 2]);
  expect(tensor.split(2).merge().shape).toEqual([2, 3, 4]);
});

test('columns of no rows can be viewed, written and read, wherever they start', async () => {
  const tensor = device.tensor('f32', [0, 3, 4]);
  const columns = tensor.slice(2, 1, 3).slice(1, 2, 3);
  expect(columns.shape).toEqual([0, 1, 2]);
  columns.write(new Float32Array(0));
  expect((await columns.read()).length).toBe(0);
  expect(code(() => columns.view([1], [1], 0))).toBe('SHAPE');
});

test('the data of a write is copied at once', async () => {
  const data = new Int32Array([1, 2, 3]);
  const tensor = device.tensor('i32', [3]);
  tensor.write(data);
  data.fill(9);
  expect(Array.from(await tensor.read())).toEqual([1, 2, 3]);
});

test('an array over part of a buffer is written, a shared buffer too', async () => {
  for (const buffer of [new ArrayBuffer(24), new SharedArrayBuffer(24)]) {
    const data = new Float32Array(buffer, 8, 3);
    data.set([1, 2, 3]);
    const tensor = device.tensor('f32', [3]);
    tensor.write(data);
    expect(Array.from(await tensor.read())).toEqual([1, 2, 3]);
  }
});

test('bf16 rounds to nearest even and comes back', async () => {
  const values = Float32Array.from([1, 1.00390625, 1.01171875, -2.5, 3.3895314e38, 1e-40, Infinity]);
  const tensor = device.from(floatsToBf16(values), [7]);
  const back = await tensor.readFloats();
  expect(Array.from(back.slice(0, 4))).toEqual([1, 1, 1.015625, -2.5]);
  expect(back[6]).toBe(Infinity);
  expect(Number.isNaN(bf16ToFloats(floatsToBf16(Float32Array.of(NaN)))[0])).toBe(true);
});

test('memory is accounted and freed, by dispose and by using', async () => {
  await device.synchronize();
  await collectGarbage();
  const before = liveAllocations();
  const tensor = device.tensor('f32', [1000]);
  const view = tensor.slice(0, 0, 10);
  const inner = view.slice(0, 2, 5);
  view.dispose();
  view.dispose();
  expect(code(() => view.slice(0, 0, 1))).toBe('DISPOSED');
  expect((await inner.read()).length).toBe(3);
  expect(liveAllocations().bytes - before.bytes).toBe(4000);
  tensor.dispose();
  tensor.dispose();
  await device.synchronize();
  expect(liveAllocations()).toEqual(before);
  expect(code(() => inner.write(new Float32Array(3)))).toBe('DISPOSED'); // views end with their tensor
  inner.dispose();
});

test('a freed tensor is a typed error wherever it is used', async () => {
  const tensor = device.tensor('f32', [2, 2]);
  const other = device.tensor('f32', [2, 2]);
  tensor.dispose();
  expect(code(() => tensor.write(new Float32Array(4)))).toBe('DISPOSED');
  expect(code(() => tensor.at(0))).toBe('DISPOSED');
  expect(code(() => ops.add(other, tensor, other))).toBe('DISPOSED');
  await expect(Promise.resolve().then(() => tensor.read())).rejects.toMatchObject({ code: 'DISPOSED' });
});

test('work in flight keeps what it needs', async () => {
  const out = device.tensor('f32', [1, 4]);
  const a = device.from(Float32Array.of(1, 2, 3, 4), [1, 4]);
  ops.add(out, a, a);
  a.dispose();
  expect(Array.from(await out.read())).toEqual([2, 4, 6, 8]);
});

test('what is too large to be read is an error, and nothing worse', async () => {
  const tensor = device.tensor('f32', [2 ** 15]);
  // 64 TiB: more than any machine has.
  await expectError(() => tensor.view([2 ** 14, 2 ** 15, 2 ** 15], [0, 0, 1], 0).read(), 'OUT_OF_MEMORY', `Could not allocate ${2 ** 46} bytes to read a tensor`);
  expect((await tensor.read()).length).toBe(2 ** 15);
});

test('bad arguments are refused by code', () => {
  const tensor = device.tensor('f32', [2, 3]);
  expect(code(() => device.tensor('f16' as never, [1]))).toBe('INVALID_ARGUMENT');
  expect(code(() => device.tensor('f32', []))).toBe('SHAPE');
  expect(code(() => device.tensor('f32', [1, 2, 3, 4, 5]))).toBe('SHAPE');
  expect(code(() => device.tensor('f32', [-1]))).toBe('SHAPE');
  expect(code(() => device.tensor('f32', [1.5]))).toBe('SHAPE');
  expect(code(() => device.tensor('f32', [2 ** 40, 2 ** 40]))).toBe('SHAPE');
  expect(code(() => device.tensor('f32', [2 ** 44]))).toBe('OUT_OF_MEMORY');
  expect(code(() => tensor.at(2))).toBe('INVALID_ARGUMENT');
  expect(code(() => tensor.slice(1, 2, 4))).toBe('INVALID_ARGUMENT');
  expect(code(() => tensor.view([2, 3], [3, 1], 1))).toBe('SHAPE');
  expect(code(() => tensor.view([2, 3], [2 ** 52, 1], 0))).not.toBe('no error');
  expect(code(() => tensor.write(new Float32Array(5)))).toBe('SHAPE');
  expect(code(() => tensor.write(new Int32Array(6)))).toBe('DTYPE');
  expect(code(() => tensor.write([1, 2] as never))).toBe('INVALID_ARGUMENT');
  expect(code(() => ops.add(tensor, undefined as never, tensor))).toBe('INVALID_ARGUMENT');
  expect(code(() => ops.add(tensor, {} as never, tensor))).toBe('INVALID_ARGUMENT');
  expect(code(() => ops.add(tensor, device.tensor('f32', [2, 4]), tensor))).toBe('SHAPE');
  expect(code(() => ops.add(tensor, device.tensor('i32', [2, 3]), tensor))).toBe('DTYPE');
});

test('a mismatch names both places', () => {
  const x = device.tensor('f32', [2, 3]);
  expect(() => ops.add(x, x, device.tensor('f32', [5, 3]))).toThrow(
    'add: Expected T = 2 (dimension 0 of out [2, 3]) but received 5 (dimension 0 of b [5, 3])',
  );
});

test('a mapped file is read where it lies, and never written', async () => {
  const path = join(MODEL_DIR, 'config.json');
  const bytes = readFileSync(path);
  const mapped = device.map(path, 3, 'u8', [20]);
  expect(Buffer.from((await mapped.read()) as Uint8Array)).toEqual(bytes.subarray(3, 23));
  expect(code(() => mapped.write(new Uint8Array(20)))).toBe('INVALID_ARGUMENT');
  expect(code(() => ops.copy(mapped, device.tensor('u8', [20])))).toBe('INVALID_ARGUMENT');
  expect(code(() => ops.copy(mapped.slice(0, 0, 4), device.tensor('u8', [4])))).toBe('INVALID_ARGUMENT');
  expect(code(() => device.map(path, bytes.length - 1, 'f32', [1]))).toBe('FILE');
  expect(code(() => device.map('no/such/file', 0, 'f32', [1]))).toBe('FILE');
  // An offset that is not a multiple of the element size is read all the same.
  const unaligned = device.map(path, 1, 'i32', [2]);
  expect(((await unaligned.read()) as Int32Array)[1]).toBe(bytes.readInt32LE(5));
});

test('tensors of two devices do not mix', () => {
  using other = testDevice({ threads: 1 });
  const a = device.tensor('f32', [1, 1]);
  expect(code(() => ops.add(a, a, Tensor.create(other, 'f32', [1, 1])))).toBe('DEVICE');
});
