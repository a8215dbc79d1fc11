import type { Llama } from '../model/forward.js';
import { LlamaNetwork } from '../model/llama-network.js';
import type { StepMemory } from '../model/network.js';
import type * as ops from '../ops.js';
import type { Sequence } from '../ops.js';
import { calibrate } from './calibrate.js';
import { drawDensities, type Skew } from './densities.js';
import { pagesNeeded } from './fill.js';
import { THRESHOLD, WINDOW } from './geometries.js';
import { summarize, type Times } from './times.js';
import { uniform } from '../random.js';

export interface PrefillSettings {
  /** How the cache stores keys and values. */
  cacheDtype: ops.CacheDType;
  /** Tokens of the prompt. */
  tokens: number;
  /** Tokens of one step. */
  chunk: number;
  density: number;
  skew: Skew;
  /** Measured prompts, after one that is not. */
  repeats: number;
}

export interface PrefillResult extends PrefillSettings {
  measuredDensity: number;
  /** From the first chunk to the logits of the last token. */
  seconds: Times;
  tokensPerSecond: number;
}

/** Times whole prompts of a random network whose predictors are set to keep drawn shares. */
export async function benchmarkPrefill(
  llama: Llama, settings: PrefillSettings, onProgress?: (share: number) => void, signal?: AbortSignal,
): Promise<PrefillResult> {
  const { config } = llama;
  const densities = drawDensities(config, settings.density, settings.skew, uniform(3));
  const run = new PrefillRun(llama, settings, densities);
  try {
    await run.calibrate(densities, signal);
    const times: number[] = [];
    let measuredDensity = 0;
    for (let repeat = 0; repeat <= settings.repeats; repeat++) {
      const result = await run.prompt(signal);
      if (repeat > 0) times.push(result.seconds);
      measuredDensity = result.density;
      onProgress?.((repeat + 1) / (settings.repeats + 1));
    }
    const seconds = summarize(times);
    return { ...settings, measuredDensity, seconds, tokensPerSecond: settings.tokens / seconds.median };
  } finally {
    run.dispose();
  }
}

class PrefillRun {
  readonly #network: LlamaNetwork;
  readonly #settings: PrefillSettings;
  readonly #cache: ops.KvCache;
  readonly #memory: StepMemory;
  readonly #logits: ops.Tensor;
  readonly #ids: Int32Array;

  constructor(llama: Llama, settings: PrefillSettings, densities: Float32Array) {
    const { config } = llama;
    const { device } = llama.weights.embedding;
    const { layers, kvHeads, headDim, vocabSize } = config;
    this.#network = new LlamaNetwork(llama);
    this.#settings = settings;
    // What the predictors keep may miss the drawn share: room for twice as much, where there is more to keep.
    const roomy = densities.map((density) => Math.min(1, 2 * density + 0.05));
    const capacityPages = pagesNeeded(1, settings.tokens, roomy);
    this.#cache = device.createCache({ layers, kvHeads, headDim, window: WINDOW, dtype: settings.cacheDtype, capacityPages });
    this.#memory = this.#network.createMemory(settings.chunk);
    this.#logits = device.tensor('f32', [1, vocabSize]);
    const next = uniform(4);
    this.#ids = Int32Array.from({ length: settings.tokens }, () => Math.floor(next() * vocabSize));
  }

  /** Sets the predictors by the first chunk. */
  async calibrate(densities: Float32Array, signal?: AbortSignal): Promise<void> {
    await calibrate(this.#network, this.#cache, this.#ids.subarray(0, this.#settings.chunk), densities, signal);
  }

  async prompt(signal?: AbortSignal): Promise<{ seconds: number; density: number }> {
    const { tokens, chunk } = this.#settings;
    const sequence = await this.#cache.createSequence({ threshold: THRESHOLD });
    try {
      const { device } = this.#logits;
      await device.synchronize();
      const start = performance.now();
      for (let from = 0; from < tokens; from += chunk) {
        signal?.throwIfAborted();
        this.#enqueue(sequence, from);
      }
      await this.#logits.read();
      const seconds = (performance.now() - start) / 1000;
      const { kept } = await sequence.stats();
      const left = Math.max(1, tokens - WINDOW);
      return { seconds, density: kept.reduce((sum, count) => sum + count, 0) / (kept.length * left) };
    } finally {
      await sequence.dispose();
    }
  }

  /** Enqueues a chunk; behind the last one the logits of the last token. */
  #enqueue(sequence: Sequence, from: number): void {
    const { device } = this.#logits;
    const ids = this.#ids.subarray(from, from + this.#settings.chunk);
    const step = this.#memory.take(ids.length);
    step.ids.write(ids);
    using slots = device.from(Int32Array.of(sequence.slot));
    using offsets = device.from(Int32Array.of(0, ids.length));
    using rows = device.from(Int32Array.of(ids.length - 1));
    const last = from + ids.length === this.#ids.length;
    step.forward(this.#cache, { slots, offsets, ...(last && { logits: this.#logits, rows }) });
    sequence.advance(ids.length);
  }

  dispose(): void {
    this.#cache.dispose();
    this.#memory.dispose();
    this.#logits.dispose();
  }
}
