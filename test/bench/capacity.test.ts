import { capacityWork } from '../../bench/suites/capacity.js';
import type { Result } from '../../bench/suites/suite.js';
import { parseConfig } from '../../lib/checkpoint/config.js';
import { SPKV, tinyConfig } from '../support/checkpoints.js';
import { testDevice } from '../support/device.js';

test('long texts are counted and timed in one pool, dense and pruned, and a full batch against its bare steps', async () => {
  using device = testDevice();
  const config = parseConfig(tinyConfig('llama', { spkv: SPKV, max_position_embeddings: 1024 }), 'config.json');
  const [long, batch] = [{ count: 2, prompt: 700, answer: 80 }, { count: 4, prompt: 40, answer: 20 }];
  const results = await capacityWork(device, { name: 'tiny', config, chunk: 128, density: 0.25, long, spareBytes: 0, batch }, 2);
  expect(results.map(({ unit }) => unit)).toEqual(['tokens/s', 'tokens/s', 'tokens/s', 'share of a step', 'tokens/s']);
  const [dense, pruned, writing, cost, changing] = results as [Result, Result, Result, Result, Result];
  expect(dense.notes).toMatchObject({ together: 2, madeRoom: 0, measuredDensity: 1 });
  expect(pruned.notes!['together']).toBeGreaterThan(2);
  expect(pruned.notes).toMatchObject({ madeRoom: 0 });
  expect(pruned.notes!['measuredDensity']).toBeLessThan(0.7);
  expect(pruned.ratio).toBe(pruned.spkv.median / dense.spkv.median);
  for (const { notes } of [dense, pruned]) expect(notes!['wholeTokensPerSecond']).toBeGreaterThan(0);
  expect(writing.notes).toMatchObject({ together: 4 });
  for (const { spkv } of [writing, cost]) expect(spkv.samples.length).toBe(2);
  expect(cost.spkv.max).toBeLessThan(1);
  expect(changing.notes).toMatchObject({ together: 4, bareMilliseconds: writing.notes!['bareMilliseconds'] });
});
