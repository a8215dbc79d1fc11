import fc from 'fast-check';
import { rope, rotaryAngles } from '../../lib/ops.js';
import { normals, random } from '../support/device.js';
import { dot } from '../support/gradients.js';
import {
  expectClose, expectSame, F32_ROUNDING, padded, paddings, Poisoned, refusal, rowCounts, RUNS, seeds, testDevices,
} from '../support/operands.js';

const halves = fc.integer({ min: 1, max: 70 });

describe.each(testDevices())('rotary_angles on %s', (_, device) => {
  test('are cosines and sines of the exact product, at any position', async () => {
    const property = fc.asyncProperty(rowCounts, halves, paddings, seeds, async (T, half, padding, seed) => {
      const uniform = random(seed);
      const positions = Int32Array.from({ length: T }, () => Math.floor(uniform() * 2 ** (1 + 30 * uniform())));
      const frequencies = Float32Array.from({ length: half }, (_, i) => 10000 ** (-i / half));
      const out = new Poisoned(device, 'f32', [T, 2 * half], padding);
      rotaryAngles(out.view, device.from(positions, [T]), device.from(frequencies, [half]));
      const expected = Array.from(positions).flatMap((position) => [
        ...Array.from(frequencies, (frequency) => Math.cos(position * frequency)),
        ...Array.from(frequencies, (frequency) => Math.sin(position * frequency)),
      ]);
      expectClose(await out.read(), expected, (i) => F32_ROUNDING * Math.abs(expected[i]!) + 1e-14);
    });
    await fc.assert(property, RUNS);
  });

  test('arguments are checked', () => {
    const out = device.tensor('f32', [2, 6]);
    const positions = device.tensor('i32', [2]);
    const frequencies = device.tensor('f32', [3]);
    expect(refusal(() => rotaryAngles(device.tensor('i32', [2, 6]), positions, frequencies))).toBe('DTYPE');
    expect(refusal(() => rotaryAngles(out, device.tensor('f32', [2]), frequencies))).toBe('DTYPE');
    expect(refusal(() => rotaryAngles(out, positions, device.tensor('bf16', [3])))).toBe('DTYPE');
    expect(refusal(() => rotaryAngles(out, device.tensor('i32', [3]), frequencies))).toBe('SHAPE');
    expect(refusal(() => rotaryAngles(out, positions, device.tensor('f32', [6])))).toBe('SHAPE');
    expect(refusal(() => rotaryAngles(device.tensor('f32', [2, 7]), positions, frequencies))).toBe('SHAPE');
  });
});

describe.each(testDevices())('rope on %s', (_, device) => {
  test('rotates the halves of every head, in place too', async () => {
    const property = fc.asyncProperty(rowCounts, fc.integer({ min: 1, max: 4 }), halves, paddings, seeds, async (T, H, half, padding, seed) => {
      const uniform = random(seed);
      const D = 2 * half;
      const x = normals(T * H * D, uniform);
      const angles = Float32Array.from({ length: T * D }, () => 2 * uniform() - 1);
      const expected = new Float64Array(x.length);
      const size = new Float64Array(x.length);
      for (let row = 0; row < T * H; row++) {
        const t = Math.floor(row / H);
        for (let i = 0; i < half; i++) {
          const [a, b] = [x[row * D + i]!, x[row * D + half + i]!];
          const [c, s] = [angles[t * D + i]!, angles[t * D + half + i]!];
          expected[row * D + i] = a * c - b * s;
          expected[row * D + half + i] = b * c + a * s;
          size[row * D + i] = Math.abs(a * c) + Math.abs(b * s);
          size[row * D + half + i] = Math.abs(b * c) + Math.abs(a * s);
        }
      }
      const out = new Poisoned(device, 'f32', [T, H, D], padding);
      const input = padded(device, x, [T, H, D], (padding * 3) % 7);
      const turns = padded(device, angles, [T, D], padding);
      rope(out.view, input, turns);
      const apart = await out.read();
      expectClose(apart, expected, (i) => 2 * F32_ROUNDING * size[i]!);

      rope(input, input, turns);
      expectSame(await input.read(), apart);
    });
    await fc.assert(property, RUNS);
  });

  test('keeps relative positions: the product of two rotated vectors depends on their distance alone', async () => {
    const D = 64;
    const uniform = random(3);
    const [q, k] = [normals(D, uniform), normals(D, uniform)];
    const frequencies = device.from(Float32Array.from({ length: D / 2 }, (_, i) => 10000 ** ((-2 * i) / D)));
    const product = async (query: number, key: number) => {
      const angles = device.tensor('f32', [2, D]);
      const x = device.from(Float32Array.of(...q, ...k), [2, 1, D]);
      rotaryAngles(angles, device.from(Int32Array.of(query, key)), frequencies);
      rope(x, x, angles);
      const rotated = await x.readFloats();
      return rotated.slice(0, D).reduce((sum, value, i) => sum + value * rotated[D + i]!, 0);
    };
    const norm = Math.hypot(...q) * Math.hypot(...k);
    expect(Math.abs((await product(17, 5)) - (await product(100017, 100005)))).toBeLessThan(8 * F32_ROUNDING * norm);
  });

  test('the inverse is the backward, and undoes the rotation', async () => {
    const property = fc.asyncProperty(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 4 }), halves, paddings, seeds, async (T, H, half, padding, seed) => {
      const uniform = random(seed);
      const D = 2 * half;
      const [x, dy] = [normals(T * H * D, uniform), normals(T * H * D, uniform)];
      const turned = Array.from({ length: T * half }, () => 2 * Math.PI * uniform());
      const angles = padded(
        device, Float32Array.from({ length: T * D }, (_unused, i) => (i % D < half ? Math.cos : Math.sin)(turned[Math.floor(i / D) * half + (i % half)]!)),
        [T, D], padding,
      );
      const [there, back, gradient] = [x, x, dy].map((values) => padded(device, values, [T, H, D], padding));
      rope(there!, there!, angles);
      rope(back!, there!, angles, true);
      expectClose(await back!.readFloats(), x, () => 32 * F32_ROUNDING);
      // The transpose: <dy, rope(x)> = <backward(dy), x>.
      rope(gradient!, gradient!, angles, true);
      const [forward, dx] = [await there!.readFloats(), await gradient!.readFloats()];
      const size = Math.sqrt(dot(dy, dy) * dot(x, x));
      expectClose([dot(dx, x)], [dot(dy, forward)], () => 16 * F32_ROUNDING * size);
    });
    await fc.assert(property, RUNS);
  });

  test('NaN and infinity arrive', async () => {
    const out = device.tensor('f32', [1, 1, 4]);
    rope(out, device.from(Float32Array.of(NaN, 1, 2, Infinity), [1, 1, 4]), device.from(Float32Array.of(0.6, 0.6, 0.8, 0.8), [1, 4]));
    expect(Array.from(await out.read())).toEqual([NaN, -Infinity, NaN, Infinity]);
  });

  test('arguments are checked', () => {
    const x = device.tensor('f32', [2, 3, 4]);
    const angles = device.tensor('f32', [2, 4]);
    expect(refusal(() => rope(device.tensor('bf16', [2, 3, 4]), x, angles))).toBe('DTYPE');
    expect(refusal(() => rope(x, device.tensor('i32', [2, 3, 4]), angles))).toBe('DTYPE');
    expect(refusal(() => rope(x, x, device.tensor('bf16', [2, 4])))).toBe('DTYPE');
    expect(refusal(() => rope(x, device.tensor('f32', [2, 2, 4]), angles))).toBe('SHAPE');
    expect(refusal(() => rope(x, x, device.tensor('f32', [3, 4])))).toBe('SHAPE');
    expect(refusal(() => rope(x, x, device.tensor('f32', [2, 6])))).toBe('SHAPE');
    const odd = device.tensor('f32', [2, 3, 5]);
    expect(refusal(() => rope(odd, odd, device.tensor('f32', [2, 5])))).toBe('SHAPE');
    expect(refusal(() => rope(x, x, angles, 1 as never))).toBe('INVALID_ARGUMENT');
  });
});
