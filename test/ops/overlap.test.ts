// Which tensors an operation takes together: what it writes may lie on nothing else that it is given.
import fc from 'fast-check';
import { add, copy, matmul, predictUtility, rmsNorm, siluMul, type Tensor } from '../../lib/ops.js';
import { testDevice } from '../support/device.js';
import { refusal } from '../support/operands.js';

const device = testDevice();
const SHAPE = [5, 4, 6];

/** A part of each dimension of a tensor, [begin, end). */
const views = (sizes: readonly number[]) =>
  fc.tuple(...SHAPE.map((extent, i) => fc.integer({ min: 0, max: extent - sizes[i]! }).map((begin) => [begin, begin + sizes[i]!] as const)));
const cases = fc.tuple(...SHAPE.map((extent) => fc.integer({ min: 1, max: extent })))
  .chain((sizes) => fc.tuple(views(sizes), views(sizes)));

function cut(tensor: Tensor, ranges: readonly (readonly [number, number])[]): Tensor {
  return ranges.reduce((view, [begin, end], dimension) => view.slice(dimension, begin, end), tensor);
}

describe('overlapping arguments', () => {
  test('views of one tensor may be used together exactly if they share no element, or are the same', () => {
    const whole = device.from(new Float32Array(SHAPE.reduce((a, b) => a * b)).fill(1), SHAPE);
    let [met, apart] = [0, 0];
    fc.assert(fc.property(cases, ([a, b]) => {
      const share = a.every(([begin, end], i) => begin < b[i]![1] && b[i]![0] < end);
      const same = a.every(([begin], i) => begin === b[i]![0]);
      const refused = refusal(() => rmsNorm(cut(whole, a), cut(whole, b), device.from(new Float32Array(a[2]![1] - a[2]![0]).fill(1)), 1));
      expect(refused).toBe(share && !same ? 'INVALID_ARGUMENT' : 'no error');
      if (refused === 'no error') apart++;
      else met++;
    }), { numRuns: 500 });
    expect(Math.min(met, apart)).toBeGreaterThan(100);
  });

  test('the argument that is in the way is named', () => {
    const [x, weight, bias] = [device.tensor('f32', [4, 4]), device.tensor('f32', [4, 4]), device.tensor('f32', [4])];
    expect(() => matmul(x, x, weight)).toThrow('matmul: out must not overlap x');
    expect(() => matmul(weight, x, weight)).toThrow('matmul: out must not overlap weight');
    expect(() => matmul(x.slice(0, 0, 2), x.slice(0, 1, 3), weight, bias)).toThrow('out must not overlap x');
    expect(() => predictUtility(x, x, weight, bias)).toThrow('predictUtility: out must not overlap hidden');
    expect(() => siluMul(x.slice(0, 0, 2), x.slice(0, 1, 3), weight.slice(0, 0, 2))).toThrow('siluMul: out must not overlap gate');
    expect(() => add(x.slice(0, 1, 3), weight.slice(0, 0, 2), x.slice(0, 0, 2))).toThrow('add: out must not overlap b');
  });

  test('memory seen as two shapes overlaps where it is the same memory', () => {
    const flat = device.tensor('f32', [4, 6]);
    expect(refusal(() => copy(flat.slice(0, 0, 2), flat.slice(0, 2, 4)))).toBe('no error');
    expect(refusal(() => copy(flat, flat))).toBe('no error');
    expect(refusal(() => copy(flat.slice(1, 0, 3), flat.slice(1, 3, 6)))).toBe('no error');
    expect(refusal(() => copy(flat.slice(1, 0, 3), flat.slice(1, 2, 5)))).toBe('INVALID_ARGUMENT');
  });
});
