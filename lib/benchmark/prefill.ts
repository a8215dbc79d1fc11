import { ActivationMemory } from '../model/activations.js';
import { forward, type Llama, project } from '../model/forward.js';
import * as ops from '../ops.js';
import type { Sequence } from '../ops.js';
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
    await run.calibrate(signal);
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
  readonly #llama: Llama;
  readonly #settings: PrefillSettings;
  readonly #densities: Float32Array;
  readonly #cache: ops.KvCache;
  readonly #memory: ActivationMemory;
  readonly #logits: ops.Tensor;
  readonly #ids: Int32Array;

  constructor(llama: Llama, settings: PrefillSettings, densities: Float32Array) {
    const { config } = llama;
    const { device } = llama.weights.embedding;
    const { layers, kvHeads, headDim, vocabSize } = config;
    this.#llama = llama;
    this.#settings = settings;
    this.#densities = densities;
    // What the predictors keep may miss the drawn share: room for twice as much, where there is more to keep.
    const roomy = densities.map((density) => Math.min(1, 2 * density + 0.05));
    const capacityPages = pagesNeeded(1, settings.tokens, roomy);
    this.#cache = device.createCache({ layers, kvHeads, headDim, window: WINDOW, dtype: settings.cacheDtype, capacityPages });
    this.#memory = new ActivationMemory(device, config, llama.weights, settings.chunk);
    this.#logits = device.tensor('f32', [1, vocabSize]);
    const next = uniform(4);
    this.#ids = Int32Array.from({ length: settings.tokens }, () => Math.floor(next() * vocabSize));
  }

  /** Moves every predictor's bias so that it keeps its drawn share of a first chunk. */
  async calibrate(signal?: AbortSignal): Promise<void> {
    const { config, weights } = this.#llama;
    const sequence = await this.#cache.createSequence({ threshold: THRESHOLD });
    try {
      signal?.throwIfAborted();
      const utilities = this.#enqueue(sequence, 0).utilities!;
      const rows = utilities.shape[1]!;
      const values = await utilities.readFloats();
      for (const [layer, { predictor }] of weights.layers.entries()) {
        const bias = Float32Array.from({ length: config.kvHeads }, (_, head) => {
          const logits = Float32Array.from({ length: rows }, (_row, row) => {
            const utility = values[(layer * rows + row) * config.kvHeads + head]!;
            return Math.log(utility / (1 - utility));
          }).sort();
          const density = this.#densities[layer * config.kvHeads + head]!;
          if (density <= 0) return -1e4;
          if (density >= 1) return 1e4;
          return -logits[Math.min(rows - 1, Math.floor((1 - density) * rows))]!;
        });
        predictor!.bias.write(bias);
      }
    } finally {
      await sequence.dispose();
    }
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
        const a = this.#enqueue(sequence, from);
        const last = a.normed.shape[0]! - 1;
        if (from + chunk >= tokens) project(this.#llama, this.#logits, a.normed.slice(0, last, last + 1));
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

  #enqueue(sequence: Sequence, from: number) {
    const { device } = this.#logits;
    const ids = this.#ids.subarray(from, from + this.#settings.chunk);
    const a = this.#memory.take(ids.length);
    a.ids.write(ids);
    const slots = device.from(Int32Array.of(sequence.slot));
    const offsets = device.from(Int32Array.of(0, ids.length));
    forward(this.#llama, a, this.#cache, { slots, offsets });
    ops.insert(this.#cache, a.keys, a.values, a.utilities, slots, offsets);
    sequence.advance(ids.length);
    return a;
  }

  dispose(): void {
    this.#cache.dispose();
    this.#memory.dispose();
    this.#logits.dispose();
  }
}
