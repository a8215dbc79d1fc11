/** What all benchmarks share: timing, tables, result files, and the peers as child processes. */
import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { fileURLToPath } from 'node:url';
import Table from 'cli-table3';
import { commit, machine } from './machine.js';
import type { LlamaCppOptions, LlamaCppResult } from './peers/llama-cpp.js';
import type { OnnxruntimeOptions, OnnxruntimeResult } from './peers/onnxruntime.js';
import { quiet } from './quiet.js';
import { summarize, type Summary } from './summary.js';

const BENCH = fileURLToPath(new URL('.', import.meta.url));
const PEER_TIMEOUT_MS = 15 * 60_000;

export interface MeasureOptions {
  /** Samples that are taken and thrown away first. Defaults to 3. */
  warmup?: number;
  /** Samples kept. Defaults to 10. */
  repeats?: number;
  /** Calls per sample, for work too short for the clock. Defaults to 1. */
  calls?: number;
}

/** Milliseconds of one call. */
export interface Measurement extends Summary {
  name: string;
}

/** Times `fn`, which may be asynchronous: its promise is awaited inside the sample. */
export async function measure(name: string, fn: () => unknown, options: MeasureOptions = {}): Promise<Measurement> {
  const { warmup = 3, repeats = 10, calls = 1 } = options;
  const samples: number[] = [];
  for (let i = 0; i < warmup + repeats; i++) {
    const start = performance.now();
    for (let call = 0; call < calls; call++) {
      const result = fn();
      if (result instanceof Promise) await result;
    }
    if (i >= warmup) samples.push((performance.now() - start) / calls);
  }
  return { name, ...summarize(samples) };
}

/** Prints rows under a header; numbers are shown with three significant digits and stand right. */
export function printTable(title: string, head: readonly string[], rows: readonly (readonly (string | number | undefined)[])[]): void {
  const numeric = head.map((_, column) => rows.some((row) => typeof row[column] === 'number'));
  const table = new Table({
    head: [...head],
    colAligns: numeric.map((right) => (right ? 'right' : 'left')),
    style: process.stdout.isTTY ? { compact: true } : { compact: true, head: [], border: [] },
  });
  for (const row of rows) table.push(row.map((cell) => (typeof cell === 'number' ? shown(cell) : (cell ?? ''))));
  console.log(`\n${title}\n${table.toString()}`);
}

/** Three significant digits, never in exponent form: 0.0123, 4.57, 1,234. */
export function shown(value: number): string {
  if (!Number.isFinite(value)) return String(value);
  return value.toLocaleString('en-US', Math.abs(value) >= 100 ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: 3 });
}

/** "median [min-max]" of a summary. */
export function range({ median, min, max }: Summary): string {
  return `${shown(median)} [${shown(min)}-${shown(max)}]`;
}

/** Writes `bench/results/<name>.json`: date, commit, machine, settings and results. Returns the path. */
export function writeResults(name: string, settings: object, results: unknown): string {
  const record = { name, date: new Date().toISOString(), commit: commit(), machine: machine(), settings, results };
  const path = join(BENCH, 'results', `${name}.json`);
  mkdirSync(join(BENCH, 'results'), { recursive: true });
  const digits = (_: string, value: unknown) =>
    typeof value === 'number' && !Number.isInteger(value) ? Number(value.toPrecision(6)) : value;
  writeFileSync(path, `${JSON.stringify(record, digits, 2)}\n`);
  return path;
}

/** Why the peer llama.cpp cannot be run, or undefined where it can. */
export function llamaCppMissing(): string | undefined {
  if (existsSync(join(BENCH, 'peers', 'node_modules', 'node-llama-cpp', 'package.json'))) return undefined;
  return 'The peer node-llama-cpp is not installed. Install it with: npm install --ignore-scripts --prefix bench/peers';
}

export function runLlamaCpp(options: LlamaCppOptions): Promise<LlamaCppResult> {
  const missing = llamaCppMissing();
  return missing ? Promise.reject(new Error(missing)) : runPeer<LlamaCppResult>('llama-cpp.ts', options);
}

/** Thread settings worth trying: one, all cores, and two kept apart by `pin-shim.c` (see there). */
export function llamaCppThreads(): (number | '2pinned')[] {
  const cores = availableParallelism();
  if (cores < 2) return [1];
  const pinned = process.platform === 'linux' ? (['2pinned'] as const) : [];
  return [1, ...pinned, ...(cores > 2 || pinned.length === 0 ? [cores] : [])];
}

export interface BestOptions {
  /** GGUF files to choose between, the same weights in other element types. Defaults to the one in the options. */
  models?: readonly string[];
  /** Fresh processes per setting, taken in turn so that a disturbance hits every setting alike. Defaults to 1. */
  processes?: number;
}

/** Runs llama.cpp with every thread setting and model file; the first of the results has the best median rate. */
export async function bestLlamaCpp(
  options: Omit<LlamaCppOptions, 'threads'>,
  { models = [options.model], processes = 1 }: BestOptions = {},
): Promise<[best: LlamaCppResult, ...others: LlamaCppResult[]]> {
  const settings = models.flatMap((model) => llamaCppThreads().map((threads) => ({ ...options, model, threads })));
  const runs: LlamaCppResult[][] = settings.map(() => []);
  for (let round = 0; round < processes; round++) {
    for (const [i, setting] of settings.entries()) runs[i]!.push(await runLlamaCpp(setting));
  }
  const results = runs.map((all) => ({
    ...all[0]!,
    tokensPerSecond: summarize(all.flatMap(({ tokensPerSecond }) => tokensPerSecond.samples)),
    peakRssBytes: Math.max(...all.map(({ peakRssBytes }) => peakRssBytes)),
  }));
  const [best, ...others] = results.toSorted((a, b) => b.tokensPerSecond.median - a.tokensPerSecond.median);
  return [best!, ...others];
}

export function runOnnxruntime(options: OnnxruntimeOptions): Promise<OnnxruntimeResult> {
  return runPeer<OnnxruntimeResult>('onnxruntime.ts', options);
}

/** Runs a script of `bench/peers` with its options as JSON once the machine is quiet; gives the JSON that it prints last. */
async function runPeer<Result>(script: string, options: object): Promise<Result> {
  const args = ['--import', import.meta.resolve('tsx'), join(BENCH, 'peers', script), JSON.stringify(options)];
  const busy = await quiet();
  if (busy > 0.2) console.warn(`Other work keeps ${shown(busy)} cores busy: the rates of ${script} will be too low`);
  return new Promise((resolve, reject) => {
    execFile(process.execPath, args, { timeout: PEER_TIMEOUT_MS, maxBuffer: 1 << 24 }, (error, stdout, stderr) => {
      if (error) {
        const reason = error.killed ? `no answer within ${PEER_TIMEOUT_MS / 60_000} minutes` : stderr.trim() || error.message;
        reject(new Error(`The peer ${script} failed with ${JSON.stringify(options)}: ${reason}`));
      } else resolve(JSON.parse(stdout.trim().split('\n').at(-1)!) as Result);
    });
  });
}
