import { Decoder } from '../model/decoder.js';
import type { Llama } from '../model/forward.js';
import { LlamaNetwork } from '../model/llama-network.js';
import type { CacheDType, Sequence } from '../ops.js';
import { pairBytes } from '../report.js';
import { drawDensities, type Skew } from './densities.js';
import { fillSequences, pagesNeeded } from './fill.js';
import { streamedWeights, THRESHOLD, WINDOW } from './geometries.js';
import { summarize, type Times } from './times.js';
import { uniform } from '../random.js';

export interface DecodeSettings {
  /** How the cache stores keys and values. */
  cacheDtype: CacheDType;
  batch: number;
  /** Tokens that each sequence has seen before the first measured step. */
  context: number;
  /** Average share of pairs that are kept. */
  density: number;
  skew: Skew;
  /** Measured steps, after a few that are not. */
  steps: number;
}

export interface DecodeResult extends DecodeSettings {
  /** Share of pairs kept, counted from the lists. */
  measuredDensity: number;
  /** Of one step, from call to token ids. */
  seconds: Times;
  tokensPerSecond: number;
  /** Read in one step: all weights once, and every pair that is kept or in the window. */
  weightBytes: number;
  cacheBytes: number;
  bytesPerSecond: number;
}

const WARM_UP = 5;

/** Times whole decode steps of a random network over sequences with drawn lists. */
export async function benchmarkDecode(
  llama: Llama, settings: DecodeSettings, onProgress?: (share: number) => void, signal?: AbortSignal,
): Promise<DecodeResult> {
  const { config, weights } = llama;
  const { device } = weights.embedding;
  const { batch, context, density, skew, steps, cacheDtype: dtype } = settings;
  const densities = drawDensities(config, density, skew, uniform(3));
  const { layers, kvHeads, headDim } = config;
  using cache = device.createCache({
    layers, kvHeads, headDim, window: WINDOW, dtype,
    capacityPages: pagesNeeded(batch, context + WARM_UP + steps, densities),
  });
  const sequences: Sequence[] = [];
  try {
    for (let i = 0; i < batch; i++) sequences.push(await cache.createSequence({ threshold: THRESHOLD }));
    await fillSequences(device, config, cache, sequences, context, densities, onProgress, signal);
    const stats = await Promise.all(sequences.map((sequence) => sequence.stats()));
    const kept = stats.reduce((sum, one) => sum + one.kept.reduce((all, count) => all + count, 0), 0);
    const lists = batch * layers * kvHeads;
    using decoder = new Decoder(new LlamaNetwork(llama), cache, sequences.map((sequence, row) => ({ sequence, next: row })));
    const seconds = await timeSteps(decoder, steps, signal);
    const weightBytes = 2 * streamedWeights(config);
    const cacheBytes = (kept + lists * Math.min(WINDOW, context)) * pairBytes({ headDim, dtype });
    return {
      ...settings,
      measuredDensity: context > WINDOW ? kept / (lists * (context - WINDOW)) : 0,
      seconds,
      tokensPerSecond: batch / seconds.median,
      weightBytes,
      cacheBytes,
      bytesPerSecond: (weightBytes + cacheBytes) / seconds.median,
    };
  } finally {
    for (const sequence of sequences) await sequence.dispose();
  }
}

async function timeSteps(decoder: Decoder, steps: number, signal?: AbortSignal): Promise<Times> {
  const times: number[] = [];
  for (let step = 0; step < WARM_UP + steps; step++) {
    signal?.throwIfAborted();
    const start = performance.now();
    await decoder.step();
    if (step >= WARM_UP) times.push((performance.now() - start) / 1000);
  }
  return summarize(times);
}
