/**
 * Measures llama.cpp through the public API of node-llama-cpp, as a process of its own that prints one line of JSON:
 *   tsx bench/peers/llama-cpp.ts '{"model": "model.gguf", "mode": "decode", "contextSize": 4096, "promptTokens": 1024}'
 */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { basename } from 'node:path';
import { performance } from 'node:perf_hooks';
import { summarize, type Summary } from '../summary.js';
import { pinShim } from './pin-shim.js';
import { randomTokens } from './random.js';

export interface LlamaCppOptions {
  /** Path of a GGUF file. */
  model: string;
  /** Prompt evaluation, decoding of one sequence, or of several at once. */
  mode: 'prefill' | 'decode' | 'decode-batch';
  /** Of each sequence. */
  contextSize: number;
  promptTokens: number;
  /** Tokens decoded per sample and sequence. Defaults to 128. */
  newTokens?: number;
  /** Defaults to 8 in decode-batch, else 1. */
  sequences?: number;
  /** A number, or two threads kept on two cores by `pin-shim.c`. Defaults to 1. */
  threads?: number | '2pinned';
  /** Samples taken in this process, after one that is thrown away. Defaults to 3. */
  repeats?: number;
  /** A file whose bytes are the prompt's token ids, for models over bytes. Defaults to `randomTokens`. */
  promptFile?: string;
}

export interface LlamaCppResult {
  engine: 'node-llama-cpp';
  version: string;
  /** File name. */
  model: string;
  mode: LlamaCppOptions['mode'];
  threads: number | '2pinned';
  sequences: number;
  promptTokens: number;
  newTokens: number;
  /** All sequences together. */
  tokensPerSecond: Summary;
  /** Of the process since its start. */
  peakRssBytes: number;
}

/** What is used of node-llama-cpp; written out because the package may not be installed. */
interface Sequence {
  readonly nextTokenIndex: number;
  evaluate(tokens: number[], options: { temperature: number; yieldEogToken: boolean }): AsyncGenerator<number>;
  evaluateWithoutGeneratingNewTokens(tokens: number[]): Promise<void>;
  eraseContextTokenRanges(ranges: { start: number; end: number }[]): Promise<void>;
  clearHistory(): Promise<void>;
}
interface Context {
  getSequence(): Sequence;
}
interface Model {
  readonly fileInfo: { metadata: { llama: { vocab_size: number } } };
  createContext(options: object): Promise<Context>;
}
interface NodeLlamaCpp {
  LlamaLogLevel: { error: string };
  getModuleVersion(): Promise<string>;
  getLlama(options: object): Promise<{ loadModel(options: object): Promise<Model> }>;
}

const PINNED = 'SPKV_BENCH_PINNED';

async function run(options: LlamaCppOptions): Promise<LlamaCppResult> {
  const { mode, contextSize, promptTokens, threads = 1, repeats = 3 } = options;
  const sequences = mode === 'decode-batch' ? (options.sequences ?? 8) : 1;
  const newTokens = mode === 'prefill' ? 0 : (options.newTokens ?? 128);
  const library = await load();
  const count = threads === '2pinned' ? 2 : threads;
  const llama = await library.getLlama({ gpu: false, maxThreads: count, build: 'never', logLevel: library.LlamaLogLevel.error });
  const model = await llama.loadModel({ modelPath: options.model });
  const context = await model.createContext({ contextSize, sequences, threads: count, flashAttention: 'auto' });
  const prompt = promptOf(options, model.fileInfo.metadata.llama.vocab_size);
  const all = Array.from({ length: sequences }, () => context.getSequence());
  const sample = mode === 'prefill' ? () => prefill(all[0]!, prompt) : () => decode(all, prompt, newTokens);

  if (mode !== 'prefill') await Promise.all(all.map((s) => s.evaluateWithoutGeneratingNewTokens(prompt.slice(0, -1))));
  const rates: number[] = [];
  for (let i = 0; i <= repeats; i++) {
    const seconds = await sample();
    const tokens = mode === 'prefill' ? promptTokens : newTokens * sequences;
    if (i > 0) rates.push(tokens / seconds);
  }
  return {
    engine: 'node-llama-cpp',
    version: await library.getModuleVersion(),
    model: basename(options.model),
    mode,
    threads,
    sequences,
    promptTokens,
    newTokens,
    tokensPerSecond: summarize(rates),
    peakRssBytes: process.resourceUsage().maxRSS * 1024,
  };
}

async function load(): Promise<NodeLlamaCpp> {
  const specifier: string = 'node-llama-cpp';
  return (await import(specifier)) as NodeLlamaCpp;
}

function promptOf({ promptTokens, promptFile }: LlamaCppOptions, vocabulary: number): number[] {
  if (promptFile === undefined) return randomTokens(promptTokens, vocabulary);
  const bytes = readFileSync(promptFile).subarray(0, promptTokens);
  if (bytes.length < promptTokens) throw new Error(`Expected at least ${promptTokens} bytes in the prompt file but found ${bytes.length}`);
  return [...bytes];
}

/** Seconds to evaluate the prompt from nothing. */
async function prefill(sequence: Sequence, prompt: number[]): Promise<number> {
  await sequence.clearHistory();
  const start = performance.now();
  await sequence.evaluateWithoutGeneratingNewTokens(prompt);
  return (performance.now() - start) / 1000;
}

/**
 * Seconds for every sequence to decode `newTokens` tokens, greedily, after the prompt. All but the prompt's last token
 * are in the cache before the clock starts; afterwards the sequences are taken back there.
 */
async function decode(sequences: Sequence[], prompt: number[], newTokens: number): Promise<number> {
  const start = performance.now();
  await Promise.all(sequences.map((sequence) => generate(sequence, prompt.at(-1)!, newTokens)));
  const seconds = (performance.now() - start) / 1000;
  for (const sequence of sequences) {
    await sequence.eraseContextTokenRanges([{ start: prompt.length - 1, end: sequence.nextTokenIndex }]);
  }
  return seconds;
}

async function generate(sequence: Sequence, token: number, newTokens: number): Promise<void> {
  let generated = 0;
  for await (const _ of sequence.evaluate([token], { temperature: 0, yieldEogToken: true })) {
    if (++generated === newTokens) return;
  }
  throw new Error(`llama.cpp stopped after ${generated} of ${newTokens} tokens`);
}

const options = JSON.parse(process.argv[2] ?? '{}') as LlamaCppOptions;
if (options.threads === '2pinned' && !process.env[PINNED]) {
  if (availableParallelism() < 2) throw new Error('Two pinned threads need two cores');
  const env = { ...process.env, [PINNED]: '1', LD_PRELOAD: pinShim() };
  const { status } = spawnSync(process.execPath, [...process.execArgv, ...process.argv.slice(1)], { env, stdio: 'inherit' });
  process.exit(status ?? 1);
}
process.stdout.write(`${JSON.stringify(await run(options))}\n`, () => process.exit(0));
