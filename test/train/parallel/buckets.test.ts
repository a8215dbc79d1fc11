import { Buckets } from '../../../lib/train/parallel/buckets.js';
import type { Reduction } from '../../../lib/train/parallel/reduction.js';
import type { Parameters } from '../../../lib/train/parameters.js';
import { TrainingStep } from '../../../lib/train/step.js';
import type { Tensor } from '../../../lib/ops.js';
import { testDevice } from '../../support/device.js';
import { temporaryDirectory } from '../../support/files.js';
import { expectSame } from '../../support/operands.js';
import { documents, tinyBatch, tinyParameters } from '../../support/training.js';

const device = testDevice();
const root = temporaryDirectory();

/** Writes down what it is given, as it is when its turn comes. */
class Record implements Reduction {
  readonly sums: { size: number; values: Promise<Float32Array> }[] = [];
  joined = 0;

  sum(x: Tensor): void {
    this.sums.push({ size: x.size, values: x.readFloats() });
  }

  async join(): Promise<void> {
    this.joined++;
  }

  async dispose(): Promise<void> {}
}

test.each([[1, 4], [1500, 3], [6000, 1]])('buckets of at least %i elements, %i of them, hold every gradient once, from the last to the first', async (least, expected) => {
  using parameters: Parameters = await tinyParameters(device, root);
  const { layout } = parameters;
  const record = new Record();
  const buckets = new Buckets(layout, parameters.gradients, record, least);
  parameters.gradients.write(Float32Array.from({ length: layout.size }, (_, i) => i));
  const sizes: number[] = [];
  for (let block = layout.blocks.length - 1; block >= 0; block--) {
    buckets.completed(block);
    const covered = record.sums.reduce((sum, { size }) => sum + size, 0);
    sizes.push(covered);
    expect(covered).toBeLessThanOrEqual(layout.size - layout.blocks[block]!.start); // nothing that is not complete
  }
  expect(sizes.at(-1)).toBe(layout.size);
  for (const { size } of record.sums.slice(0, -1)) expect(size).toBeGreaterThanOrEqual(least);
  const values = (await Promise.all(record.sums.map((sum) => sum.values))).toReversed().flatMap((part) => Array.from(part));
  expectSame(Float32Array.from(values), Float32Array.from({ length: layout.size }, (_, i) => i));
  expect(record.sums.length).toBe(expected);
  buckets.dispose();
});

test.each([['llama', {}], ['llama', { tie_word_embeddings: true }], ['qwen2', {}], ['qwen3', {}]] as const)(
  'in the backward pass of %s %j no gradient changes after it has been given away, and only those of the last micro-batch are', async (family, changes) => {
    using parameters = await tinyParameters(device, root, family, changes);
    const record = new Record();
    const given: { block: number; values: Promise<Float32Array> }[] = [];
    // Every block by itself, however small.
    const { completed } = Buckets.prototype;
    Buckets.prototype.completed = (block) => {
      const { start, end } = parameters.layout.blocks[block]!;
      given.push({ block, values: parameters.gradients.slice(0, start, end).readFloats() });
    };
    using _ = { [Symbol.dispose]: () => void (Buckets.prototype.completed = completed) };
    using step = new TrainingStep(parameters, { tokens: 60, reduction: record });
    const batch = tinyBatch([20, 9, 31], 48);
    await step.accumulate(documents(batch, 0, 1), 'soft', { last: false });
    expect(given).toEqual([]);
    const { tokens } = await step.accumulate(documents(batch, 1, 3), 'soft', { last: true });
    expect(given.map(({ block }) => block)).toEqual([3, 2, 1, 0]);
    const final = await parameters.gradients.readFloats();
    for (const { block, values } of given) {
      const { start, end } = parameters.layout.blocks[block]!;
      expectSame(await values, final.subarray(start, end));
    }
    expect(record.joined).toBe(0);
    const { gradientNorm } = await step.update({ learningRate: 0 }, 2 * tokens);
    expect(record.joined).toBe(1);
    const norm = Math.sqrt(final.reduce((sum, value) => sum + value * value, 0)) / (2 * tokens);
    expect(gradientNorm / norm).toBeCloseTo(1, 4);
  },
);
