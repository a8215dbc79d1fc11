import { options as checkOptions } from './check.js';
import type { Model, PrefillOptions } from './model/model.js';
import { type CacheReport, reportCache } from './report.js';

/** How well a model predicts a text at one threshold, and what the cache held for it. */
export interface Evaluation {
  threshold: number;
  /** Mean negative log-likelihood per token, in nats, over all tokens but the first. */
  loss: number;
  tokens: number;
  seconds: number;
  cache: CacheReport;
}

/** A threshold above every utility: nothing outlives the window. */
export const WINDOW_ONLY = 1.01;

export interface EvaluateOptions extends PrefillOptions {
  /** τ, see {@link GenerateOptions.threshold}. Defaults to the model's own. */
  threshold?: number;
}

/** Reads a text through the cache at one threshold and measures how well the model predicts it. */
export async function evaluate(model: Model, ids: ArrayLike<number>, options?: EvaluateOptions): Promise<Evaluation> {
  const { threshold = model.threshold, ...rest } = checkOptions(options, 'evaluate options', ['threshold', 'onProgress', 'signal']);
  const sequence = await model.createSequence({ threshold });
  try {
    const start = performance.now();
    const scores = await model.score(sequence, ids, rest);
    const seconds = (performance.now() - start) / 1000;
    const sum = scores.reduce((total, score) => total - score, 0);
    return { threshold, loss: sum / Math.max(1, ids.length - 1), tokens: ids.length, seconds, cache: await reportCache(sequence) };
  } finally {
    await sequence.dispose();
  }
}
