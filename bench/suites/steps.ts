import { readFileSync } from 'node:fs';
import { benchmarkDecode, type DecodeResult } from '../../lib/benchmark/decode.js';
import { drawDensities, type Skew } from '../../lib/benchmark/densities.js';
import { pagesNeeded } from '../../lib/benchmark/fill.js';
import { geometry, type GeometryName } from '../../lib/benchmark/geometries.js';
import { benchmarkPrefill } from '../../lib/benchmark/prefill.js';
import { uniform } from '../../lib/random.js';
import { randomNetwork } from '../../lib/benchmark/random-network.js';
import type { Times } from '../../lib/benchmark/times.js';
import type { Device } from '../../lib/ops.js';
import { printTable, shown } from '../harness.js';
import { summarize, type Summary } from '../summary.js';
import type { Result, Settings } from './suite.js';

interface Work {
  batch: number;
  context: number;
  skew: Skew;
  densities: number[];
}

const K = 1024;
const STEPS = 30;
/** Left to activations and scratch memory. */
const SPARE_BYTES = 2 * 2 ** 30;

const BETA = [0.25, 1];
const DECODE: Record<string, Work[]> = {
  'llama-3-8b': [
    ...[8, 128].map((thousands): Work => ({ batch: 1, context: thousands * K, skew: 'beta', densities: BETA })),
    ...[8, 24].map((thousands): Work => ({ batch: 16, context: thousands * K, skew: 'beta', densities: BETA })),
    { batch: 16, context: 32 * K, skew: 'beta', densities: [0.25] },
    { batch: 16, context: 8 * K, skew: 'one-head', densities: [0.125] },
    { batch: 64, context: 8 * K, skew: 'beta', densities: [0.25] },
  ],
  'qwen3-0.6b': [8, 32].map((thousands): Work => ({ batch: 16, context: thousands * K, skew: 'beta', densities: BETA })),
  'qwen3-4b': [8, 24].map((thousands): Work => ({ batch: 16, context: thousands * K, skew: 'beta', densities: BETA })),
};
const PREFILL = [8 * K, 32 * K];

/** Whole decode steps and prompts of random networks of real sizes, on a GPU. */
export async function stepsSuite({ device, repeats }: Settings): Promise<Result[]> {
  const limit = gpuReadLimit(device);
  const results: Result[] = [];
  for (const [name, works] of Object.entries(DECODE)) {
    const network = await randomNetwork(device, geometry(name as GeometryName));
    for (const { batch, context, skew, densities } of works) {
      let dense: DecodeResult | undefined;
      // The dense run first: the others are compared with it.
      for (const density of densities.toSorted((a, b) => b - a)) {
        const work = `${name}, decode ${batch} x ${context / K}k, density ${density}${skew === 'one-head' ? ', one head full of eight' : ''}`;
        await device.synchronize(); // so that the memory of the work before is free
        if (!fits(device, name as GeometryName, { batch, context, skew, density })) {
          console.log(`${work}: does not fit`);
          continue;
        }
        const one = await benchmarkDecode(network, { cacheDtype: 'bf16', batch, context, density, skew, steps: STEPS });
        dense ??= density === 1 ? one : undefined;
        results.push(decodeResult(work, one, dense, limit));
        console.log(`${work}: ${shown(one.seconds.median * 1000)} ms, ${shown(one.bytesPerSecond / 1e9)} GB/s`);
      }
    }
    if (name === 'llama-3-8b') {
      for (const tokens of PREFILL) {
        for (const density of BETA) {
          const { seconds, tokensPerSecond, measuredDensity } = await benchmarkPrefill(network, { cacheDtype: 'bf16', tokens, chunk: 2 * K, density, skew: 'beta', repeats: Math.min(repeats, 3) });
          results.push({ work: `${name}, prefill of ${tokens / K}k, density ${density}`, unit: 'ms', spkv: milliseconds(seconds), notes: { tokensPerSecond, measuredDensity } });
        }
      }
    }
    release(network.weights);
  }
  printTable(
    `Whole steps on ${device.description}${limit === undefined ? '' : `; read limit ${shown(limit)} GB/s`}`,
    ['work', 'ms', 'tokens/s', 'kept', 'GB/s', 'of read limit', 'faster than dense', 'of the ratio of bytes'],
    results.map(({ work, spkv, notes = {} }) => [
      work, spkv.median, notes['tokensPerSecond'] as number, notes['measuredDensity'] as number, notes['gigabytesPerSecond'] as number | undefined,
      notes['shareOfReadLimit'] as number | undefined, notes['overDense'] as number | undefined, notes['shareOfByteRatio'] as number | undefined,
    ]),
  );
  return results;
}

function decodeResult(work: string, one: DecodeResult, dense: DecodeResult | undefined, limit: number | undefined): Result {
  const gigabytesPerSecond = one.bytesPerSecond / 1e9;
  const bytes = ({ weightBytes, cacheBytes }: DecodeResult) => weightBytes + cacheBytes;
  const notes: Record<string, unknown> = {
    tokensPerSecond: one.tokensPerSecond, measuredDensity: one.measuredDensity, weightBytes: one.weightBytes, cacheBytes: one.cacheBytes, gigabytesPerSecond,
  };
  if (limit !== undefined) notes['shareOfReadLimit'] = gigabytesPerSecond / limit;
  if (dense && dense !== one) {
    const overDense = dense.seconds.median / one.seconds.median;
    Object.assign(notes, { overDense, shareOfByteRatio: overDense / (bytes(dense) / bytes(one)) });
  }
  return { work, unit: 'ms', spkv: milliseconds(one.seconds), notes };
}

const milliseconds = ({ samples }: Times): Summary => summarize(samples.map((seconds) => seconds * 1000));

function fits(device: Device, name: GeometryName, { batch, context, skew, density }: { batch: number; context: number; skew: Skew; density: number }): boolean {
  const config = geometry(name);
  const pages = pagesNeeded(batch, context + 2 * STEPS, drawDensities(config, density, skew, uniform(3)));
  return pages * device.pageBytes(config.headDim, 'bf16') + SPARE_BYTES < (device.freeMemory ?? 0);
}

/** GB/s of a plain reduction on this kind of GPU, as bench/cuda/decode_bench.cu has measured it; undefined for others. */
function gpuReadLimit(device: Device): number | undefined {
  const record = JSON.parse(readFileSync(new URL('../results/h100-decode.json', import.meta.url), 'utf8')) as {
    device: string;
    results: { what: string; readGBps?: number }[];
  };
  return device.description.startsWith(record.device) ? record.results.find(({ what }) => what === 'limits')?.readGBps : undefined;
}

/** Frees all tensors below. */
function release(value: unknown): void {
  if (value === null || typeof value !== 'object') return;
  if ('dispose' in value) (value as { dispose(): void }).dispose();
  else Object.values(value).forEach(release);
}
