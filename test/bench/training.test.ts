import { trainingWork } from '../../bench/suites/training.js';
import { parseConfig } from '../../lib/checkpoint/config.js';
import { SPKV, tinyConfig } from '../support/checkpoints.js';
import { testDevice } from '../support/device.js';

test('a training step is measured in every mode, the dense one without predictors', async () => {
  using device = testDevice();
  const config = parseConfig(tinyConfig('llama', { spkv: SPKV }), 'config.json');
  const results = await trainingWork(device, { name: 'tiny', config, sequences: 2, length: 24 }, 2);
  expect(results.map(({ work }) => work)).toEqual(['tiny, 2 x 24, dense', 'tiny, 2 x 24, soft', 'tiny, 2 x 24, hard']);
  for (const { spkv } of results) expect(spkv.median).toBeGreaterThan(0);
  const [dense, soft, hard] = results.map(({ notes }) => notes!['parameters'] as number);
  const { layers, hiddenSize, kvHeads } = config;
  const { predictorHiddenSize } = config.spkv!;
  expect(soft! - dense!).toBe(layers * (predictorHiddenSize * (hiddenSize + 1) + kvHeads * (predictorHiddenSize + 1)));
  expect(hard).toBe(soft);
});
