import { openCheckpoint } from '../../lib/checkpoint/checkpoint.js';
import { Parameters } from '../../lib/train/parameters.js';
import { type Batch, TrainingStep } from '../../lib/train/step.js';
import { testDevice } from '../support/device.js';
import { golden, MODEL_DIR } from '../support/golden.js';

const TOKENS = 640;
const device = testDevice();

async function goldenBatch(): Promise<Batch> {
  const ids = (await golden()).ints('input_ids');
  const rows = [0, 1].map((row) => ids.subarray(row * TOKENS, (row + 1) * TOKENS));
  return {
    ids: Int32Array.from(rows.flatMap((row) => Array.from(row.subarray(0, -1)))),
    targets: Int32Array.from(rows.flatMap((row) => Array.from(row.subarray(1)))),
    offsets: Int32Array.of(0, TOKENS - 1, 2 * (TOKENS - 1)),
  };
}

const norm = (values: ArrayLike<number>): number => Math.sqrt(Array.from(values).reduce((sum, value) => sum + value * value, 0));

describe('the reference model', () => {
  test.each([false, true])('has the loss and the gradients of the float64 reference, recompute %s', async (recompute) => {
    const data = await golden();
    const checkpoint = await openCheckpoint(MODEL_DIR);
    using parameters = await Parameters.load(checkpoint, device, checkpoint.config, 0);
    using step = new TrainingStep(parameters, { tokens: 2 * TOKENS, recompute });
    const { loss, tokens } = await step.accumulate(await goldenBatch(), 'soft');
    expect(tokens).toBe(2 * (TOKENS - 1));
    expect(Math.abs(loss / data.floats('soft_loss')[0]! - 1)).toBeLessThan(1e-4);
    let [worst, compared] = [0, 0]; // the largest relative error of a norm or of a whole gradient
    for (const { name, group } of parameters.layout.parts) {
      if (group === 'constant') continue;
      const gradient = (await parameters.gradient(name)).map((value) => value / tokens);
      const short = name.replace(/^model\./, '');
      const size = data.floats(`gradnorm.${short}`)[0]!;
      worst = Math.max(worst, Math.abs(norm(gradient) / size - 1));
      if (!data.names.includes(`grad.${short}`)) continue;
      const expected = data.floats(`grad.${short}`);
      worst = Math.max(worst, norm(gradient.map((value, i) => value - expected[i]!)) / size);
      compared++;
    }
    expect(compared).toBe(data.names.filter((name) => name.startsWith('grad.')).length);
    expect(worst).toBeLessThan(1e-3);
  });
});
