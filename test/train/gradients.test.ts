import type { Family } from '../../lib/checkpoint/config.js';
import { TrainingStep } from '../../lib/train/step.js';
import type { Json } from '../support/checkpoints.js';
import { maxDifference, normals, random, testDevice } from '../support/device.js';
import { dot, expectGradient } from '../support/gradients.js';
import { temporaryDirectory } from '../support/files.js';
import { tinyBatch, tinyParameters } from '../support/training.js';

const device = testDevice();
const root = temporaryDirectory();

const CASES: [name: string, family: Family, changes: Json][] = [
  ['Llama', 'llama', {}],
  ['Llama with tied embeddings', 'llama', { tie_word_embeddings: true }],
  ['Llama with every bias', 'llama', { attention_bias: true, mlp_bias: true }],
  ['Qwen2 with biases', 'qwen2', {}],
  ['Qwen3 with q/k norm', 'qwen3', {}],
];
/** An f32 loss is good to about 1e-6; the step makes a change of that order a thousandth of the slope. */
const STEP = 2e-3;

describe.each(CASES)('%s', (_, family, changes) => {
  test.each(['dense', 'soft'] as const)('in mode %s every group of weights has the gradient that differences of the loss have', async (mode) => {
    using parameters = await tinyParameters(device, root, family, changes);
    using step = new TrainingStep(parameters, { tokens: 64, logitRows: 7 });
    const batch = tinyBatch([20, 1, 30], 48);
    const { tokens } = await step.accumulate(batch, mode);
    const gradient = (await parameters.gradients.readFloats()).map((value) => value / tokens);
    const values = await parameters.values.readFloats();
    const lossAt = async (direction: Float32Array, distance: number) => {
      parameters.values.write(values.map((value, i) => value + distance * direction[i]!));
      parameters.refresh();
      return (await step.evaluate(batch, mode)).loss;
    };
    for (const wanted of ['matrix', 'vector', 'predictor'] as const) {
      // Along the gradient of a group and, so that nothing hides behind a large part of it, noise of its size.
      const direction = new Float32Array(values.length);
      for (const { group, shape, offset } of parameters.layout.parts) {
        if (group !== wanted) continue;
        const end = offset + shape.reduce((a, b) => a * b, 1);
        const part = gradient.subarray(offset, end);
        const size = Math.sqrt(dot(part, part) / part.length);
        direction.set(normals(part.length, random(offset), size).map((noise, i) => noise + part[i]!), offset);
      }
      const length = Math.sqrt(dot(direction, direction));
      if (wanted === 'predictor' && mode === 'dense') {
        expect(length).toBe(0);
        continue;
      }
      const unit = direction.map((value) => value / length);
      const at = async (steps: number) => lossAt(unit, steps * STEP);
      const slope = (8 * ((await at(1)) - (await at(-1))) - ((await at(2)) - (await at(-2)))) / (12 * STEP);
      const expected = dot(unit, gradient);
      expect({ wanted, error: Math.abs(slope - expected) < 2e-3 * Math.abs(expected) + 5e-4 }).toEqual({ wanted, error: true });
    }
  });
});

test('the annealed mode begins as the soft one, but that nothing is learned through the predictor', async () => {
  using parameters = await tinyParameters(device, root, 'qwen3');
  using step = new TrainingStep(parameters, { tokens: 64 });
  const batch = tinyBatch([40, 24], 48);
  const soft = await step.accumulate(batch, 'soft');
  const read = async () => new Map(await Promise.all(parameters.layout.parts.map(async ({ name }) => [name, await parameters.gradient(name)] as const)));
  const expected = await read();
  await step.update({ learningRate: 0 });
  const annealed = await step.accumulate(batch, { alpha: 0, threshold: 0.5 });
  expect(annealed.loss).toBeCloseTo(soft.loss, 5);
  expect(annealed.kept).toEqual(soft.kept);
  const actual = await read();
  // In the last layer nothing comes back from a predictor but to its own norm.
  for (const name of ['self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj', 'self_attn.o_proj', 'self_attn.q_norm', 'mlp.gate_proj', 'mlp.down_proj', 'post_attention_layernorm']) {
    const whole = `model.layers.1.${name}.weight`;
    expectGradient(actual.get(whole)!, expected.get(whole)!, 1024);
  }
  for (const { name, group } of parameters.layout.parts) if (group === 'predictor') expect(actual.get(name)!.every((value) => value === 0)).toBe(true);
  const below = 'model.layers.1.input_layernorm.weight';
  expect(maxDifference(actual.get(below)!, expected.get(below)!)).toBeGreaterThan(1e-3);
});
