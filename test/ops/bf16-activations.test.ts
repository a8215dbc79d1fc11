// On a GPU activations and their gradients may be bf16. An operation then gives what it gives for the same numbers in
// f32, rounded. The CPU refuses them.
import * as ops from '../../lib/ops.js';
import { type Device, floatsToBf16, bf16ToFloats, type Tensor } from '../../lib/ops.js';
import { normals, random } from '../support/device.js';
import { BF16_ROUNDING, refusal, testDevices } from '../support/operands.js';

type Type = 'f32' | 'bf16';
/** Makes operands, the same numbers whatever the type; runs an operation on them; gives its activations. */
type Run = (operands: Operands) => Tensor[];

/** Numbers that bf16 holds, as tensors of one type. */
class Operands {
  readonly #uniform = random(5);
  constructor(readonly device: Device, readonly type: Type) {}

  #numbers(shape: readonly number[]): Float32Array {
    const values = normals(shape.reduce((a, b) => a * b, 1), this.#uniform);
    return bf16ToFloats(floatsToBf16(values));
  }

  activation(...shape: number[]): Tensor {
    const values = this.#numbers(shape);
    return this.device.from(this.type === 'f32' ? values : floatsToBf16(values), shape);
  }

  f32(...shape: number[]): Tensor {
    return this.device.from(this.#numbers(shape), shape);
  }
}

const T = 37, C = 64, F = 96, H = 4, D = 16, G = 2;

const CASES: [string, Run][] = [
  ['rmsNorm', (o) => {
    const out = o.activation(T, C);
    ops.rmsNorm(out, o.activation(T, C), o.f32(C), 1e-5);
    return [out];
  }],
  ['rmsNorm of heads, in place', (o) => {
    const x = o.activation(T, H, D);
    ops.rmsNorm(x, x, o.f32(D), 1e-5);
    return [x];
  }],
  ['rope, in place', (o) => {
    const x = o.activation(T, H, D);
    ops.rope(x, x, o.f32(T, D));
    return [x];
  }],
  ['siluMul', (o) => {
    const out = o.activation(T, F);
    ops.siluMul(out, o.activation(T, F), o.activation(T, F));
    return [out];
  }],
  ['predictUtility', (o) => {
    const out = o.f32(T, G);
    ops.predictUtility(out, o.activation(T, C), o.f32(G, C), o.f32(G));
    return [out];
  }],
  ['siluMulBackward', (o) => {
    const [gate, up] = [o.activation(T, F), o.activation(T, F)];
    ops.siluMulBackward(gate, up, o.activation(T, F), gate, up);
    return [gate, up];
  }],
  ['rmsNormBackward', (o) => {
    const [dx, dWeight] = [o.f32(T, C), o.f32(C)];
    ops.rmsNormBackward(dx, dWeight, o.activation(T, C), o.f32(T, C), o.f32(C), 1e-5, true);
    return [dx, dWeight];
  }],
  ['predictUtilityBackward', (o) => {
    const [dHidden, dWeight, dBias] = [o.activation(T, C), o.f32(G, C), o.f32(G)];
    ops.predictUtilityBackward(dHidden, dWeight, dBias, o.f32(T, G), o.activation(T, C), o.f32(G, C), o.f32(G));
    return [dHidden, dWeight, dBias];
  }],
  ['crossEntropy', (o) => {
    const [losses, logits] = [o.f32(T), o.activation(T, F)];
    ops.crossEntropy(losses, logits, o.device.from(Int32Array.from({ length: T }, (_, t) => t)), 2);
    return [losses, logits];
  }],
  ['columnSums', (o) => {
    const out = o.f32(C);
    ops.columnSums(out, o.activation(T, C));
    return [out];
  }],
];

// Products of bf16 operands are exact in f32, so on the tensor cores, too, only the output is rounded.
const PRODUCTS: [string, Run][] = [
  ['matmul with bias', (o) => {
    const out = o.activation(T, F);
    ops.matmul(out, o.activation(T, C), o.activation(F, C), o.f32(F));
    return [out];
  }],
  ['matmulInputGradient', (o) => {
    const dx = o.activation(T, C);
    ops.matmulInputGradient(dx, o.activation(T, F), o.activation(F, C));
    return [dx];
  }],
  ['matmulWeightGradient', (o) => {
    const dWeight = o.f32(F, C);
    ops.matmulWeightGradient(dWeight, o.activation(T, F), o.activation(T, C));
    return [dWeight];
  }],
];

describe.each(testDevices())('activations in bf16 on %s', (name, device) => {
  const cpu = name.startsWith('cpu');

  test.each([...CASES, ...PRODUCTS])('%s', async (_, run) => {
    if (cpu) {
      expect(refusal(() => run(new Operands(device, 'bf16')))).toBe('DTYPE');
      return;
    }
    const [narrow, wide] = (['bf16', 'f32'] as const).map((type) => run(new Operands(device, type)));
    for (const [i, tensor] of narrow!.entries()) {
      const [found, expected] = [await tensor.readFloats(), await wide![i]!.readFloats()];
      const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      // The output is rounded, and a bias before it is added; sums have another order.
      const tolerance = (tensor.dtype === 'bf16' ? 3 * BF16_ROUNDING : 2 ** -16) * largest;
      for (const [j, value] of expected.entries()) expect(Math.abs(found[j]! - value)).toBeLessThanOrEqual(tolerance);
    }
  });
});
