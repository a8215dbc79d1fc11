import { floatsToHalves, halvesToFloats } from '../lib/half.js';

test('every binary16 number comes back as it was', () => {
  const bits = Uint16Array.from({ length: 1 << 16 }, (_, i) => i);
  const back = floatsToHalves(halvesToFloats(bits));
  const isNaN16 = (half: number) => (half & 0x7c00) === 0x7c00 && (half & 0x3ff) !== 0;
  expect([...back].filter((half, i) => (isNaN16(i) ? !isNaN16(half) : half !== i))).toEqual([]);
});

test('numbers between two go to the nearest, ties to the even one', () => {
  const numbers = halvesToFloats(Uint16Array.from({ length: 0x7c00 }, (_, i) => i)); // the finite ones, in order
  for (let i = 0; i + 1 < numbers.length; i += 7) {
    const [low, high] = [numbers[i]!, numbers[i + 1]!];
    const middle = (low + high) / 2;
    const even = i % 2 === 0 ? i : i + 1;
    const sample = Float32Array.of(middle, -middle, low + (high - low) * 0.4375, low + (high - low) * 0.5625);
    expect([...floatsToHalves(sample)]).toEqual([even, even | 0x8000, i, i + 1]);
  }
});

test('what is too large becomes infinite', () => {
  expect([...floatsToHalves(Float32Array.of(65504, 65519, 65520, -70000, Infinity, 1e-8, NaN))]).toEqual([0x7bff, 0x7bff, 0x7c00, 0xfc00, 0x7c00, 0, 0x7e00]);
});
