/**
 * Measures onnxruntime-node, as a process of its own that prints one line of JSON:
 *   tsx bench/peers/onnxruntime.ts '{"work": "matmul", "threads": 2}'
 *   tsx bench/peers/onnxruntime.ts '{"work": "attention", "past": 32768, "threads": 2}'
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { InferenceSession, Tensor } from 'onnxruntime-node';
import { OnnxGraph } from '../../test/support/onnx.js';
import { summarize, type Summary } from '../summary.js';
import { gaussian, generator } from './random.js';

export interface MatmulOptions {
  work: 'matmul';
  /** C [m, n] = A [m, k] · B [k, n]; B is a constant, so that onnxruntime packs it once. Default 512, 2048, 2048. */
  m?: number;
  k?: number;
  n?: number;
  threads?: number;
  repeats?: number;
}

export interface AttentionPeerOptions {
  work: 'attention';
  /** Pairs in the cache; the new token's own pair comes on top. Defaults to 32768. */
  past?: number;
  heads?: number;
  kvHeads?: number;
  headSize?: number;
  /** Whether past and present are one buffer (nothing is copied inside the kernel, its fastest form). Defaults to true. */
  shared?: boolean;
  /** Of a number in the cache: 32, or 8, which is int8 with one scale for all. Defaults to 32. */
  bits?: 8 | 32;
  threads?: number;
  repeats?: number;
}

export type OnnxruntimeOptions = MatmulOptions | AttentionPeerOptions;

export interface OnnxruntimeResult {
  engine: 'onnxruntime-node';
  version: string;
  work: OnnxruntimeOptions['work'];
  threads: number;
  /** Time inside the operator's kernel, from onnxruntime's profiler. */
  kernelMs: Summary;
  /** Time of `session.run`, which includes copies between JavaScript and onnxruntime. */
  wallMs: Summary;
  /** Of the kernel's median for a matrix product. */
  gflops?: number;
  /** Keys and values that the attention kernel reads, over its median. */
  gigabytesPerSecond?: number;
}

interface Case {
  model: Uint8Array;
  feeds: Record<string, Tensor>;
  /** Output tensors to be filled in place, or names of the outputs wanted. */
  fetches: InferenceSession.FetchesType;
  /** How the profiler's events of the kernel start. */
  kernel: string;
}

const WARM_UP = 3;

async function measure(work: Case, threads: number, repeats: number): Promise<{ kernelMs: Summary; wallMs: Summary }> {
  const directory = mkdtempSync(join(tmpdir(), 'spkv-onnxruntime-'));
  try {
    const session = await InferenceSession.create(work.model, {
      intraOpNumThreads: threads,
      executionProviders: ['cpu'],
      logSeverityLevel: 3, // a cache that is not shared grows by one, which onnxruntime's shape inference warns about
      enableProfiling: true,
      profileFilePrefix: join(directory, 'profile'),
    });
    const wall: number[] = [];
    for (let i = 0; i < WARM_UP + repeats; i++) {
      const start = performance.now();
      await session.run(work.feeds, work.fetches);
      if (i >= WARM_UP) wall.push(performance.now() - start);
    }
    session.endProfiling();
    await session.release();
    const kernel = kernelTimes(directory, work.kernel).slice(WARM_UP);
    if (kernel.length !== repeats) throw new Error(`Expected ${repeats} profiled kernels but found ${kernel.length}`);
    return { kernelMs: summarize(kernel), wallMs: summarize(wall) };
  } finally {
    rmSync(directory, { recursive: true });
  }
}

/** Milliseconds of each run of the kernel, in order, from the profile that onnxruntime left in `directory`. */
function kernelTimes(directory: string, kernel: string): number[] {
  const [file] = readdirSync(directory);
  if (!file) throw new Error('onnxruntime wrote no profile');
  const events = JSON.parse(readFileSync(join(directory, file), 'utf8')) as { name: string; ts: number; dur: number }[];
  return events
    .filter(({ name }) => name.startsWith(kernel) && name.endsWith('_kernel_time'))
    .toSorted((a, b) => a.ts - b.ts)
    .map(({ dur }) => dur / 1000);
}

function matmulCase({ m = 512, k = 2048, n = 2048 }: MatmulOptions): Case & { flops: number } {
  const next = generator(1, 'matmul');
  const graph = new OnnxGraph();
  const a = graph.input('a', 'float32', [m, k]);
  graph.node('MatMul', [a, graph.constant(gaussian(next, k * n, 1), [k, n])], {}, { outputs: ['c'] });
  graph.output('c', 'float32', [m, n]);
  const feeds = { a: new Tensor('float32', gaussian(next, m * k, 1), [m, k]) };
  return { model: graph.build(), feeds, fetches: ['c'], kernel: 'MatMul', flops: 2 * m * n * k };
}

function attentionCase(options: AttentionPeerOptions): Case & { bytes: number } {
  const { past = 32_768, heads = 32, kvHeads = 8, headSize = 128, shared = true, bits = 32 } = options;
  const next = generator(1, 'attention');
  const quantized = bits === 8;
  const element = quantized ? 'int8' : 'float32';
  const total = past + 1;
  const cached = [1, kvHeads, shared ? total : past, headSize];
  const present = [1, kvHeads, total, headSize];
  const queryShape = [1, 1, heads * headSize];
  const pairShape = [1, 1, kvHeads * headSize];

  const graph = new OnnxGraph();
  const inputs = [
    graph.input('query', 'float32', queryShape),
    graph.input('key', 'float32', pairShape),
    graph.input('value', 'float32', pairShape),
    graph.input('past_key', element, cached),
    graph.input('past_value', element, cached),
    graph.input('seqlens_k', 'int32', [1]),
    graph.input('total_sequence_length', 'int32', []),
  ];
  // Five inputs that are left out stand before the scales.
  const scales = quantized ? [...Array<string>(5).fill(''), graph.scalar(0.03), graph.scalar(0.03)] : [];
  const outputs = ['output', 'present_key', 'present_value'];
  const quantization = { k_quant_type: 'PER_TENSOR', v_quant_type: 'PER_TENSOR', kv_cache_bit_width: 8 };
  const attributes = { num_heads: heads, kv_num_heads: kvHeads, ...(quantized && quantization) };
  graph.node('GroupQueryAttention', [...inputs, ...scales], attributes, { domain: 'com.microsoft', outputs });
  graph.output('output', 'float32', queryShape);
  graph.output('present_key', element, present);
  graph.output('present_value', element, present);

  const random = (shape: readonly number[]) => new Tensor('float32', gaussian(next, shape.reduce((x, y) => x * y, 1), 1), shape);
  const bytes = (shape: readonly number[]) => new Tensor('int8', Int8Array.from(random(shape).data as Float32Array, (x) => x / 0.03), shape);
  const feeds = {
    query: random(queryShape),
    key: random(pairShape),
    value: random(pairShape),
    past_key: quantized ? bytes(cached) : random(cached),
    past_value: quantized ? bytes(cached) : random(cached),
    seqlens_k: new Tensor('int32', Int32Array.of(total - 1), [1]),
    total_sequence_length: new Tensor('int32', Int32Array.of(total), []),
  };
  const fetches = shared ? { output: null, present_key: feeds.past_key, present_value: feeds.past_value } : ['output'];
  return { model: graph.build(), feeds, fetches, kernel: 'GroupQueryAttention', bytes: (2 * total * kvHeads * headSize * bits) / 8 };
}

const options = JSON.parse(process.argv[2] ?? '{}') as OnnxruntimeOptions;
const { version } = createRequire(import.meta.url)('onnxruntime-node/package.json') as { version: string };
const { work, threads = 1, repeats = work === 'matmul' ? 40 : 15 } = options;
const common = { engine: 'onnxruntime-node', version, work, threads } as const;
let result: OnnxruntimeResult;
if (work === 'matmul') {
  const { flops, ...rest } = matmulCase(options);
  const times = await measure(rest, threads, repeats);
  result = { ...common, ...times, gflops: flops / times.kernelMs.median / 1e6 };
} else if (work === 'attention') {
  const { bytes, ...rest } = attentionCase(options);
  const times = await measure(rest, threads, repeats);
  result = { ...common, ...times, gigabytesPerSecond: bytes / times.kernelMs.median / 1e6 };
} else {
  throw new Error(`Expected "matmul" or "attention" for work but received ${JSON.stringify(work)}`);
}
console.log(JSON.stringify(result));
