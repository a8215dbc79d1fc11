import fc from 'fast-check';
import { embedding, embeddingBackward } from '../../lib/ops.js';
import { normals, random } from '../support/device.js';
import {
  columnCounts, expectClose, expectRounding, expectSame, F32_ROUNDING, failure, floatTypes, inType, padded, paddings, Poisoned, refusal,
  rowCounts, RUNS, seeds, testDevices,
} from '../support/operands.js';

describe.each(testDevices())('embedding on %s', (_, device) => {
  test('copies the rows that the ids name', async () => {
    const property = fc.asyncProperty(
      rowCounts, columnCounts, fc.integer({ min: 1, max: 50 }), floatTypes, paddings, seeds,
      async (T, C, V, dtype, padding, seed) => {
        const uniform = random(seed);
        const ids = Int32Array.from({ length: T }, () => Math.floor(uniform() * V));
        const table = inType(normals(V * C, uniform), dtype);
        const out = new Poisoned(device, 'f32', [T, C], padding);
        const rows = padded(device, table.data, [V, C], padding);
        embedding(out.view, device.from(ids, [T]), rows);
        const expected = Array.from(ids).flatMap((id) => Array.from(table.values.subarray(id * C, (id + 1) * C)));
        expectSame(await out.read(), expected);
        await expectRounding(device, [T, C], padding, (rounded) => embedding(rounded, device.from(ids, [T]), rows));
      },
    );
    await fc.assert(property, RUNS);
  });

  test('NaN and infinity in the table arrive', async () => {
    const out = device.tensor('f32', [3, 1]);
    embedding(out, device.from(Int32Array.of(0, 1, 2), [3]), device.from(Float32Array.of(NaN, Infinity, -Infinity), [3, 1]));
    expect(Array.from(await out.read())).toEqual([NaN, Infinity, -Infinity]);
  });

  test('no tokens are no work', async () => {
    const out = device.tensor('f32', [0, 4]);
    embedding(out, device.tensor('i32', [0]), device.tensor('f32', [2, 4]));
    expect((await out.read()).length).toBe(0);
  });

  test.each([-1, 5, 2147483647, -2147483648])('the id %d is out of the range of 5 rows', async (id) => {
    const out = device.tensor('f32', [3, 2]);
    const ids = device.from(Int32Array.of(0, 4, id), [3]);
    const error = await failure(() => embedding(out, ids, device.tensor('f32', [5, 2])), out);
    expect(error.code).toBe('OUT_OF_RANGE');
    expect(error.message).toContain(`Expected an id from 0 to 4 for ids[2] but received ${id}`);
    await out.read(); // the error has been told; work goes on
  });

  test('arguments are checked', () => {
    const out = device.tensor('f32', [3, 2]);
    const ids = device.tensor('i32', [3]);
    const table = device.tensor('f32', [5, 2]);
    expect(refusal(() => embedding(device.tensor('i32', [3, 2]), ids, table))).toBe('DTYPE');
    expect(refusal(() => embedding(out, device.tensor('f32', [3]), table))).toBe('DTYPE');
    expect(refusal(() => embedding(out, ids, device.tensor('i32', [5, 2])))).toBe('DTYPE');
    expect(refusal(() => embedding(out, device.tensor('i32', [4]), table))).toBe('SHAPE');
    expect(refusal(() => embedding(out, ids, device.tensor('f32', [5, 3])))).toBe('SHAPE');
    expect(refusal(() => embedding(device.tensor('f32', [6]), ids, table))).toBe('SHAPE');
    expect(refusal(() => embedding(table.slice(0, 0, 3), ids, table))).toBe('INVALID_ARGUMENT');
    expect(refusal(() => embedding(undefined as never, ids, table))).toBe('INVALID_ARGUMENT');
  });
});

describe.each(testDevices())('embedding_backward on %s', (_, device) => {
  test('adds every token to the row that it read', async () => {
    const property = fc.asyncProperty(rowCounts, columnCounts, fc.integer({ min: 1, max: 50 }), paddings, seeds, async (T, C, V, padding, seed) => {
      const uniform = random(seed);
      const ids = Int32Array.from({ length: T }, () => Math.floor(uniform() * V));
      const [dy, before] = [normals(T * C, uniform), normals(V * C, uniform)];
      const expected = Float64Array.from(before);
      const size = expected.map(Math.abs);
      for (let i = 0; i < T * C; i++) {
        const at = ids[Math.floor(i / C)]! * C + (i % C);
        expected[at]! += dy[i]!;
        size[at]! += Math.abs(dy[i]!);
      }
      const table = new Poisoned(device, 'f32', [V, C], padding);
      table.view.write(before);
      embeddingBackward(table.view, device.from(ids), padded(device, dy, [T, C], padding));
      expectClose(await table.read(), expected, (i) => T * F32_ROUNDING * size[i]!);
    });
    await fc.assert(property, RUNS);
  });

  test('an id out of range changes nothing', async () => {
    const table = device.tensor('f32', [5, 2]);
    const error = await failure(
      () => embeddingBackward(table, device.from(Int32Array.of(0, 5)), device.from(new Float32Array(4).fill(1), [2, 2])), table,
    );
    expect(error.code).toBe('OUT_OF_RANGE');
    expect(Array.from(await table.read())).toEqual(new Array(10).fill(0));
  });

  test('arguments are checked', () => {
    const [table, ids, dy] = [device.tensor('f32', [5, 2]), device.tensor('i32', [3]), device.tensor('f32', [3, 2])];
    expect(refusal(() => embeddingBackward(device.tensor('bf16', [5, 2]), ids, dy))).toBe('DTYPE');
    expect(refusal(() => embeddingBackward(table, device.tensor('f32', [3]), dy))).toBe('DTYPE');
    expect(refusal(() => embeddingBackward(table, ids, device.tensor('f32', [4, 2])))).toBe('SHAPE');
    expect(refusal(() => embeddingBackward(table, ids, device.tensor('f32', [3, 3])))).toBe('SHAPE');
    expect(refusal(() => embeddingBackward(table, ids, table.slice(0, 0, 3)))).toBe('INVALID_ARGUMENT');
    expect(refusal(() => embeddingBackward(table, ids, undefined as never))).toBe('INVALID_ARGUMENT');
  });
});
