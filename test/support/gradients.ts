// The oracle of backward operations: differences of a forward computation in float64.
import { expectClose, F32_ROUNDING } from './operands.js';

const STEP = 1e-3;

/** The gradient of `loss` with respect to x, which it reads: central differences of fourth order. */
export function differences(loss: () => number, x: Float64Array): Float64Array {
  return x.map((value, i) => {
    const at = (steps: number) => {
      x[i] = value + steps * STEP;
      return loss();
    };
    const slope = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * STEP);
    x[i] = value;
    return slope;
  });
}

/** The root of the mean square: the size of a gradient's elements. */
export function sizeOf(values: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i]! ** 2;
  return Math.sqrt(sum / Math.max(1, values.length));
}

/**
 * Fails unless every element is within so many f32 roundings of the expected one, each as large as the element, as the
 * gradient's elements are on the whole, or as `least`, whichever is more. `least` is for terms that cancel.
 */
export function expectGradient(actual: ArrayLike<number>, expected: ArrayLike<number>, roundings: number, least = 0): void {
  const size = Math.max(sizeOf(expected), least);
  expectClose(actual, expected, (i) => roundings * F32_ROUNDING * Math.max(Math.abs(expected[i]!), size) + 1e-12);
}

export const dot = (a: ArrayLike<number>, b: ArrayLike<number>): number => {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
};
