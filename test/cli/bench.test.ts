import { drawDensities, SKEWS } from '../../lib/benchmark/densities.js';
import { geometry, streamedWeights } from '../../lib/benchmark/geometries.js';
import { uniform } from '../../lib/random.js';
import { jsonLines, spkv } from '../support/cli.js';

const bench = (...args: string[]) => spkv(['bench', ...args, '--device', 'cpu']);

interface Report {
  geometry: string;
  results: { cacheDtype: string; density: number; measuredDensity: number; seconds: { median: number; min: number; max: number }; cacheBytes: number; weightBytes: number }[];
}

test('decode counts the bytes of the lists that it drew', async () => {
  const answer = await bench('decode', '--batch', '2', '--context', '1k', '--density', '0.25,1', '--steps', '2', '--skew', 'uniform', '--json');
  expect(answer).toMatchObject({ code: 0, stderr: '' });
  const [{ geometry: name, results }] = jsonLines<Report>(answer) as [Report];
  expect(name).toBe('llama-110m');
  expect(results.map(({ density }) => density)).toEqual([0.25, 1]);
  const [pruned, dense] = results as [Report['results'][0], Report['results'][0]];
  expect(pruned.measuredDensity).toBeGreaterThan(0.23);
  expect(pruned.measuredDensity).toBeLessThan(0.27);
  expect(dense.measuredDensity).toBe(1);
  // 2 sequences, 12 layers, 4 heads, 1024 pairs of 64 + 64 numbers of 2 bytes.
  expect(dense.cacheBytes).toBe(2 * 12 * 4 * 1024 * 256);
  expect(pruned.cacheBytes).toBeCloseTo(2 * 12 * 4 * 256 * (pruned.measuredDensity * 896 + 128), -1);
  expect(dense.weightBytes).toBe(2 * streamedWeights(geometry('llama-110m')));
  for (const { seconds } of results) expect(seconds.min > 0 && seconds.min <= seconds.median && seconds.median <= seconds.max).toBe(true);
});

test('decode takes several types of cache', async () => {
  const answer = await bench('decode', '--batch', '1', '--context', '512', '--density', '1', '--steps', '1', '--cache-dtype', 'fp8,bf16', '--json');
  const [{ results }] = jsonLines<Report>(answer) as [Report];
  // 12 layers, 4 heads, 512 pairs of 64 + 64 numbers; in fp8 with two scales.
  expect(results.map(({ cacheDtype, cacheBytes }) => [cacheDtype, cacheBytes])).toEqual([['fp8', 12 * 4 * 512 * 130], ['bf16', 12 * 4 * 512 * 256]]);
});

test('prefill sets the predictors to the drawn shares, whatever they were before', async () => {
  const answer = await bench('prefill', '--tokens', '512', '--chunk', '256', '--density', '1,0.3', '--repeats', '1', '--skew', 'uniform', '--json');
  expect(answer).toMatchObject({ code: 0, stderr: '' });
  const [{ results }] = jsonLines<Report>(answer) as [Report];
  expect(results[0]!.measuredDensity).toBe(1);
  expect(results[1]!.measuredDensity).toBeGreaterThan(0.2);
  expect(results[1]!.measuredDensity).toBeLessThan(0.4);
});

test.each([
  [['decode', '--density', '1.5'], 'Expected shares from 0 to 1'],
  [['decode', '--context', '0'], 'Expected a number of tokens'],
  [['decode', '--batch', '2,x'], 'Expected a whole number'],
  [['decode', '--cache-dtype', 'fp8,f16'], 'Expected some of f32, bf16, fp8'],
  [['prefill', '--geometry', 'gpt'], 'llama-3-8b'],
  [['prefill', '--chunks', '5'], '--chunk'],
])('%j is refused', async (args, message) => {
  const { code, stderr } = await bench(...args);
  expect(code).toBe(2);
  expect(stderr).toContain(message);
});

test('densities have their mean whatever the skew', () => {
  const config = { ...geometry('llama-3-8b'), layers: 400 };
  for (const skew of SKEWS) {
    const densities = drawDensities(config, 0.25, skew, uniform(1));
    const mean = densities.reduce((sum, density) => sum + density, 0) / densities.length;
    expect(mean).toBeGreaterThan(skew === 'one-head' ? 0.12 : 0.23);
    expect(mean).toBeLessThan(skew === 'one-head' ? 0.13 : 0.27);
    expect(densities.every((density) => density >= 0 && density <= 1)).toBe(true);
  }
  expect(new Set(drawDensities(config, 0, 'beta', uniform(1)))).toEqual(new Set([0]));
});

test('the geometries have the sizes of the real models', () => {
  // Without the embedding table; published totals with it: 8.03 B, 0.75 B (tied: 0.6 B), 4.41 B (tied: 4.02 B).
  expect(streamedWeights(geometry('llama-3-8b')) / 1e9).toBeCloseTo(8.03 - 0.53, 1);
  expect(streamedWeights(geometry('qwen3-0.6b')) / 1e9).toBeCloseTo(0.6, 1);
  expect(streamedWeights(geometry('qwen3-4b')) / 1e9).toBeCloseTo(4.02, 1);
});
