import fc from 'fast-check';
import { embedding } from '../../lib/ops.js';
import { normals, random } from '../support/device.js';
import {
  columnCounts, expectRounding, expectSame, failure, floatTypes, inType, padded, paddings, Poisoned, refusal, rowCounts, RUNS,
  seeds, testDevices,
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
