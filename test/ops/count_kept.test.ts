import fc from 'fast-check';
import { countKept } from '../../lib/ops.js';
import { random } from '../support/device.js';
import { failure, padded, paddings, refusal, RUNS, seeds, testDevices } from '../support/operands.js';

describe.each(testDevices())('count_kept on %s', (_, device) => {
  test('counts what has left the window, document by document', async () => {
    const lengths = fc.array(fc.integer({ min: 0, max: 60 }), { minLength: 1, maxLength: 4 });
    const property = fc.asyncProperty(
      lengths, fc.integer({ min: 1, max: 5 }), fc.integer({ min: 1, max: 20 }), fc.integer({ min: 1, max: 70 }), paddings, seeds,
      async (sizes, G, N, window, padding, seed) => {
        const uniform = random(seed);
        const offsets = [0];
        for (const size of sizes) offsets.push(offsets.at(-1)! + size);
        const T = offsets.at(-1)!;
        const thresholds = Float32Array.from({ length: N }, () => uniform());
        // Some are equal to a threshold: they count.
        const utilities = Float32Array.from({ length: T * G }, () => (uniform() < 0.3 ? thresholds[Math.floor(uniform() * N)]! : uniform()));
        const expected = new Int32Array(G * N).fill(7);
        for (let b = 0; b + 1 < offsets.length; b++) {
          for (let s = offsets[b]!; s < offsets[b + 1]!; s++) {
            const last = offsets[b + 1]! - 1;
            if (last - s < window) continue;
            for (let i = 0; i < G * N; i++) expected[i]! += utilities[s * G + Math.floor(i / N)]! >= thresholds[i % N]! ? 1 : 0;
          }
        }
        const counts = padded(device, new Int32Array(G * N).fill(7), [G, N], padding);
        countKept(counts, padded(device, utilities, [T, G], padding), device.from(thresholds), device.from(Int32Array.from(offsets)), window);
        expect(Array.from(await counts.read())).toEqual(Array.from(expected));
      },
    );
    await fc.assert(property, RUNS);
  });

  test('NaN is not kept', async () => {
    const counts = device.tensor('i32', [1, 1]);
    countKept(counts, device.from(Float32Array.of(NaN, 1, 1), [3, 1]), device.from(Float32Array.of(0)), device.from(Int32Array.of(0, 3)), 1);
    expect(Array.from(await counts.read())).toEqual([1]);
  });

  test('arguments are checked', async () => {
    const good: Parameters<typeof countKept> = [
      device.tensor('i32', [2, 3]), device.tensor('f32', [5, 2]), device.tensor('f32', [3]), device.from(Int32Array.of(0, 5)), 4,
    ];
    const refused = (index: number, value: unknown) => refusal(() => countKept(...(good.with(index, value as never) as typeof good)));
    expect(refused(0, device.tensor('f32', [2, 3]))).toBe('DTYPE');
    expect(refused(0, device.tensor('i32', [3, 3]))).toBe('SHAPE');
    expect(refused(1, device.tensor('bf16', [5, 2]))).toBe('DTYPE');
    expect(refused(2, device.tensor('f32', [4]))).toBe('SHAPE');
    expect(refused(3, device.tensor('f32', [2]))).toBe('DTYPE');
    expect(refused(3, device.from(Int32Array.of(5)))).toBe('SHAPE');
    for (const index of [0, 1, 2, 3]) expect(refused(index, undefined)).toBe('INVALID_ARGUMENT');
    for (const window of [0, 1.5, NaN]) expect(refused(4, window)).toBe('INVALID_ARGUMENT');
    const error = await failure(() => countKept(good[0], good[1], good[2], device.from(Int32Array.of(0, 4)), 4), good[0]);
    expect(error.code).toBe('INVALID_ARGUMENT');
    expect(error.message).toMatch('offsets');
  });
});
