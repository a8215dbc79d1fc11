import type { ModelConfig } from '../checkpoint/config.js';
import { beta } from '../random.js';

/**
 * How the share of kept pairs differs between lists: the same everywhere; drawn from Beta(0.6, 0.6/d - 0.6), as
 * trained predictors have it (a few heads keep much, most keep little); or one KV head of each layer keeps
 * everything and the others nothing.
 */
export const SKEWS = ['uniform', 'beta', 'one-head'] as const;
export type Skew = (typeof SKEWS)[number];

const BETA_A = 0.6;

/** The share of pairs that each list keeps, [layers * kvHeads], `density` on average where the skew lets it. */
export function drawDensities({ layers, kvHeads }: ModelConfig, density: number, skew: Skew, next: () => number): Float32Array {
  return Float32Array.from({ length: layers * kvHeads }, (_, list) => {
    if (skew === 'one-head') return list % kvHeads === 0 ? 1 : 0;
    if (skew === 'uniform' || density === 0 || density === 1) return density;
    return beta(BETA_A, BETA_A / density - BETA_A, next);
  });
}
