import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadModel as loadNative, type Sequence, type TextModel } from '../../lib/index.js';
import { exportOnnx } from '../../lib/onnx/index.js';
import { loadModel, ROUTES } from '../../lib/onnxruntime/index.js';
import * as ops from '../../lib/ops.js';
import { writeAttentionModel } from '../../test/support/attention-model.js';
import { measure, printTable, range, runOnnxruntime } from '../harness.js';
import { gaussian, generator } from '../peers/random.js';
import { quiet } from '../quiet.js';
import type { Summary } from '../summary.js';
import { MODEL, sampleText } from './bundled.js';
import { decodeRate } from './rates.js';
import type { Result, Settings } from './suite.js';

const GEOMETRY = { heads: 32, kvHeads: 8, headDim: 128, window: 128 };
const PASTS = [4096, 32_768];
/** To reach at 32,768 on route 'graph', in wall time: against onnxruntime's f32 path, and against its int8 path. */
const TARGETS = [
  { density: 1, f32: 4 },
  { density: 0.25, f32: 12, int8: 1 },
];
const CONTEXTS = [128, 1024, 3500];
/** Milliseconds between the ticks of the timer that shows whether the event loop is free. */
const TICK = 1;
const next = generator(4, 'onnxruntime');

/** Exported models on both routes: decode steps beside plain onnxruntime-node, and whole models beside the native one. */
export async function onnxruntimeSuite({ device, repeats }: Settings): Promise<Result[]> {
  const directory = mkdtempSync(join(tmpdir(), 'spkv-bench-'));
  try {
    return [...(await attention(device, repeats, join(directory, 'attention'))), ...(await wholeModel(device, repeats, join(directory, 'model')))];
  } finally {
    rmSync(directory, { recursive: true });
  }
}

/** One step of a model that is all attention, from call to logits, against one run of a graph with GroupQueryAttention. */
async function attention(device: ops.Device, repeats: number, dir: string): Promise<Result[]> {
  await writeAttentionModel(dir, GEOMETRY);
  const results: Result[] = [];
  for (const past of PASTS) {
    const peer = (bits: 8 | 32) => runOnnxruntime({ work: 'attention', past, threads: 2, repeats: 2 * repeats, bits });
    const [f32, int8] = [await peer(32), await peer(8)];
    for (const route of ROUTES) {
      using model = await loadModel(dir, { device, route, kvMemory: 2 ** 30 });
      for (const { density, ...target } of TARGETS) {
        const sequence = await fill(model, past, density);
        await quiet();
        const { time, gap } = await steps(model, sequence, 4 * repeats);
        const { kept } = await sequence.stats();
        await sequence.dispose();
        const far = route === 'graph' && past === PASTS.at(-1);
        for (const [name, other] of [['f32', f32], ['int8', int8]] as const) {
          results.push({
            work: `decode step, all attention, past ${past}, density ${density}, route ${route}`,
            unit: 'ms',
            spkv: time,
            peer: { name: `onnxruntime-node GroupQueryAttention ${name}, all pairs, shared buffer`, value: other.wallMs },
            ratio: other.wallMs.median / time.median,
            ...(far && target[name as keyof typeof target] !== undefined && { target: target[name as keyof typeof target]! }),
            notes: { kernelOnly: other.kernelMs.median / time.median, longestTimerGapMs: gap, keptPairs: kept.reduce((a, b) => a + b, 0) / GEOMETRY.kvHeads },
          });
        }
      }
    }
  }
  printTable(
    'Decode steps that are all attention, f32, 32/8 heads, D 128; wall time',
    ['work', 'ms', 'onnxruntime-node', 'ratio', 'to reach', 'over its kernel alone', 'longest gap of a 1 ms timer'],
    results.map(({ work, spkv, peer, ratio, target, notes }) => [
      work.replace('decode step, all attention, ', ''), range(spkv), `${range(peer!.value)} ${peer!.name.split(' ')[2]!.replace(',', '')}`, ratio, target,
      notes!['kernelOnly'] as number, notes!['longestTimerGapMs'] as number,
    ]),
  );
  return results;
}

/** A sequence of `past` random pairs, a share of which has outlived the window. */
async function fill(model: TextModel, past: number, density: number): Promise<Sequence> {
  const { device, cache } = model;
  const { kvHeads, headDim } = GEOMETRY;
  const sequence = await model.createSequence({ threshold: 0.5 });
  const chunk = 1024;
  using slots = device.from(Int32Array.of(sequence.slot));
  using offsets = device.from(Int32Array.of(0, chunk));
  for (let start = 0; start < past; start += chunk) {
    using keys = device.from(gaussian(next, chunk * kvHeads * headDim, 1), [1, chunk, kvHeads, headDim]);
    using values = device.from(gaussian(next, chunk * kvHeads * headDim, 1), [1, chunk, kvHeads, headDim]);
    using utilities = device.from(Float32Array.from({ length: chunk * kvHeads }, () => (next() < density ? 1 : 0)), [1, chunk, kvHeads]);
    ops.insert(cache, keys, values, utilities, slots, offsets);
    await device.synchronize();
    sequence.advance(chunk);
  }
  return sequence;
}

/** Times steps, and the longest time in which a timer could not tick. */
async function steps(model: TextModel, sequence: Sequence, repeats: number): Promise<{ time: Summary; gap: number }> {
  let last = performance.now();
  let gap = 0;
  const tick = () => {
    const now = performance.now();
    gap = Math.max(gap, now - last);
    last = now;
  };
  for (let i = 0; i < 3; i++) await model.step([{ sequence, ids: [i] }]);
  last = performance.now();
  const timer = setInterval(tick, TICK);
  const time = await measure('step', () => model.step([{ sequence, ids: [1] }]), { warmup: 3, repeats });
  tick();
  clearInterval(timer);
  return { time, gap };
}

/** Decoding with the bundled model. */
async function wholeModel(device: ops.Device, repeats: number, dir: string): Promise<Result[]> {
  await exportOnnx(MODEL, dir);
  const prompt = sampleText(CONTEXTS.at(-1)!);
  const open = { graph: () => loadModel(dir, { device, route: 'graph' }), parts: () => loadModel(dir, { device, route: 'parts' }), native: () => loadNative(MODEL, { device }) };
  const rates = new Map<string, Summary>();
  for (const [name, load] of Object.entries(open)) {
    using model = await load();
    for (const context of CONTEXTS) {
      await quiet();
      rates.set(`${name} ${context}`, (await decodeRate(model, prompt.slice(0, context), 0.5, { repeats })).tokensPerSecond);
    }
  }
  const results = ROUTES.flatMap((route) =>
    CONTEXTS.map((context): Result => {
      const [spkv, value] = [rates.get(`${route} ${context}`)!, rates.get(`native ${context}`)!];
      return { work: `code-6m-spkv f32, decode at ${context}, route ${route}`, unit: 'tokens/s', spkv, peer: { name: 'the native model, bf16', value }, ratio: spkv.median / value.median };
    }),
  );
  printTable('code-6m-spkv exported in f32, threshold 0.5', ['work', 'tokens/s', 'native', 'ratio'], results.map(({ work, spkv, peer, ratio }) => [work, range(spkv), range(peer!.value), ratio]));
  return results;
}
