import * as ops from '../../lib/ops.js';
import type { Device, KvCache, Sequence } from '../../lib/ops.js';
import { measure, printTable, range, runOnnxruntime } from '../harness.js';
import { gaussian, generator } from '../peers/random.js';
import { quiet } from '../quiet.js';
import { readLimit } from '../read-limit.js';
import { summarize, type Summary } from '../summary.js';
import type { Result, Settings } from './suite.js';

const next = generator(2, 'operations');
const HEADS = 32;
const KV_HEADS = 8;
const HEAD_DIM = 128;
const PAST = 32_768;

/** Matrix product and decode attention, beside onnxruntime's kernels. */
export async function operationsSuite({ device, repeats, peer }: Settings): Promise<Result[]> {
  const limit = await readLimit(device);
  const results: Result[] = [];

  await quiet();
  const product = await matmul(device, repeats);
  const flops = 2 * 512 * 2048 * 2048;
  const rate = (ms: Summary) => summarize(ms.samples.map((sample) => flops / sample / 1e6));
  results.push({ work: 'matmul f32 512 x 2048 x 2048', unit: 'GFLOP/s', spkv: rate(product), target: 0.9 });
  if (peer) attach(results.at(-1)!, 'onnxruntime MatMul (wall)', rate((await runOnnxruntime({ work: 'matmul', threads: 2 })).wallMs), true);

  for (const density of [1, 0.25]) {
    await quiet();
    const pairs = PAST * density;
    const time = await attention(device, pairs, repeats);
    const gigabytesPerSecond = (2 * KV_HEADS * (pairs + 1) * HEAD_DIM * 4) / time.median / 1e6;
    results.push({
      work: `decode attention f32, ${HEADS}/${KV_HEADS} heads, D ${HEAD_DIM}, ${pairs} kept pairs`,
      unit: 'ms',
      spkv: time,
      notes: { gigabytesPerSecond, ...(limit === undefined ? {} : { shareOfReadLimit: gigabytesPerSecond / limit }), targetMs: density === 1 ? 14 : 4 },
    });
  }
  if (peer) {
    const { kernelMs } = await runOnnxruntime({ work: 'attention', past: PAST, threads: 2 });
    for (const result of results.slice(-2)) attach(result, `onnxruntime GroupQueryAttention, ${PAST} pairs (kernel)`, kernelMs, false);
  }
  printTable(
    'Operations',
    ['work', 'spkv', 'unit', 'peer', 'ratio', 'of read limit'],
    results.map(({ work, spkv, unit, peer: other, ratio, notes }) => [
      work, range(spkv), unit, other ? `${range(other.value)} ${other.name}` : '', ratio,
      typeof notes?.['shareOfReadLimit'] === 'number' ? notes['shareOfReadLimit'] : '',
    ]),
  );
  return results;
}

function attach(result: Result, name: string, value: Summary, moreIsBetter: boolean): void {
  result.peer = { name, value };
  result.ratio = moreIsBetter ? result.spkv.median / value.median : value.median / result.spkv.median;
}

async function matmul(device: Device, repeats: number): Promise<Summary> {
  const x = device.from(gaussian(next, 512 * 2048, 1), [512, 2048]);
  const weight = ops.packWeight(device.from(gaussian(next, 2048 * 2048, 1), [2048, 2048]));
  const out = device.tensor('f32', [512, 2048]);
  return measure(
    'matmul',
    () => {
      ops.matmul(out, x, weight);
      return device.synchronize();
    },
    { repeats: 3 * repeats },
  );
}

async function attention(device: Device, pairs: number, repeats: number): Promise<Summary> {
  const cache = device.createCache({
    layers: 1, kvHeads: KV_HEADS, headDim: HEAD_DIM, window: 64, capacityPages: KV_HEADS * (Math.ceil(pairs / 64) + 4),
  });
  const sequence = await cache.createSequence({ threshold: 0 });
  const slots = device.from(Int32Array.of(sequence.slot));
  await fill(device, cache, sequence, slots, pairs);
  const q = device.from(gaussian(next, HEADS * HEAD_DIM, 1), [1, HEADS, HEAD_DIM]);
  const pair = () => device.from(gaussian(next, KV_HEADS * HEAD_DIM, 1), [1, KV_HEADS, HEAD_DIM]);
  const [keys, values] = [pair(), pair()];
  const out = device.tensor('f32', [1, HEADS, HEAD_DIM]);
  const offsets = device.from(Int32Array.of(0, 1));
  const time = await measure(
    'attention',
    () => {
      ops.attention(out, q, keys, values, null, cache, 0, slots, offsets, HEAD_DIM ** -0.5);
      return device.synchronize();
    },
    { repeats: 3 * repeats },
  );
  await sequence.dispose();
  cache.dispose();
  return time;
}

async function fill(device: Device, cache: KvCache, sequence: Sequence, slots: ops.Tensor, pairs: number): Promise<void> {
  const chunk = 1024;
  for (let start = 0; start < pairs; start += chunk) {
    const count = Math.min(chunk, pairs - start);
    using keys = device.from(gaussian(next, count * KV_HEADS * HEAD_DIM, 1), [1, count, KV_HEADS, HEAD_DIM]);
    using values = device.from(gaussian(next, count * KV_HEADS * HEAD_DIM, 1), [1, count, KV_HEADS, HEAD_DIM]);
    using offsets = device.from(Int32Array.of(0, count));
    ops.insert(cache, keys, values, null, slots, offsets);
    await device.synchronize();
    sequence.advance(count);
  }
}
