import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { BUNDLED_MODEL } from '../../lib/index.js';
import { type CliOptions, jsonLines, spkv, withoutColors } from '../support/cli.js';
import { temporaryDirectory } from '../support/files.js';
import { MODEL_DIR } from '../support/golden.js';

const dir = temporaryDirectory();
const inspect = (args: string[], options?: CliOptions) => spkv(['inspect', '--model', MODEL_DIR, ...args], options);

test('shows architecture, parameters and memory without reading the weights', async () => {
  const { code, stdout, stderr } = await inspect([]);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  for (const part of ['llama, tied embeddings', '4 query heads, 2 key/value heads of 64', 'window 128, default τ 0.5', 'utility predictors', '6.12 M', '3.91 MiB', '512 KiB']) {
    expect(stdout).toContain(part);
  }
  expect(stdout).not.toContain('\u001B');
});

test('--tensors lists all of them', async () => {
  const { stdout } = await inspect(['--tensors']);
  expect(stdout).toMatch(/model\.layers\.7\.self_attn\.utility_predictor\.fc2\.weight +BF16 +2 × 64 +256 B/);
});

test('--sample measures what is kept, with a heat map', async () => {
  const { code, stdout } = await inspect(['--sample', '--threshold', '0.7'], { env: { FORCE_COLOR: '3' } });
  expect(code).toBe(0);
  expect(stdout).toContain('\u001B[48;2;');
  const text = withoutColors(stdout);
  expect(text).toMatch(/models\/sample\.py at τ 0\.7/);
  expect(text).toMatch(/loss +0\.\d{4} nats per token/);
  expect(text).toMatch(/ {6}7( +\d+%){3}/);
});

interface Report {
  parameters: number;
  tensors: { name: string; shape: number[] }[];
  memory: Record<string, number>;
  measurement?: { tokens: number; fileTokens: number; loss: number; threshold: number; cache: { density: number; densities: number[][]; length: number } };
}

test('--json has everything, and a long text is cut to the positions of the model', async () => {
  const file = join(dir, 'long.txt');
  writeFileSync(file, 'def walk(path):\n    return path\n'.repeat(200));
  const [result, plain] = await Promise.all([inspect(['--json', '--file', file]), inspect(['--json', '--cache-dtype', 'f32'])]);
  const [report] = jsonLines<Report>(result);
  expect(report).toMatchObject({
    config: { family: 'llama', layers: 8 },
    tokenizer: true,
    chatTemplate: false,
    memory: { cacheDtype: 'bf16', pairBytes: 256, denseBytesPerThousandTokens: 4_096_000, windowBytes: 524_288 },
    measurement: { tokens: 4096, fileTokens: 6401, threshold: 0.5, cache: { length: 4096 } },
  });
  expect(report!.tensors).toHaveLength(106);
  const { density, densities } = report!.measurement!.cache;
  expect(densities.map((heads) => heads.length)).toEqual(Array.from({ length: 8 }, () => 2));
  expect(densities.flat().reduce((sum, share) => sum + share, 0) / 16).toBeCloseTo(density, 6);
  expect(report!.memory['prunedBytesPerThousandTokens']).toBeCloseTo(4_096_000 * density, 3);
  const [without] = jsonLines<Report>(plain);
  expect(without!.measurement).toBeUndefined();
  expect(without!.memory).toMatchObject({ cacheDtype: 'f32', denseBytesPerThousandTokens: 8_192_000 });
});

test('without --model it is the bundled model', async () => {
  const [unnamed, named] = await Promise.all([spkv(['inspect', '--json']), inspect(['--json', '--model', BUNDLED_MODEL])]);
  expect(jsonLines<{ model: string }>(unnamed)[0]).toMatchObject({ model: BUNDLED_MODEL, tokenizer: true });
  expect(unnamed).toEqual(named);
});

test('refuses a missing file', async () => {
  expect(await inspect(['--file', 'no-such.txt'])).toMatchObject({ code: 1, stderr: expect.stringContaining('no-such.txt cannot be read: there is no such file') });
});
