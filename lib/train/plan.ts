import type { ModelConfig } from '../checkpoint/config.js';
import { planTensors, weightPlan } from '../checkpoint/weights.js';
import type { CheckedSettings } from './settings.js';

/** Settings with nothing left open: what a run does, and what it writes down. */
export type RunSettings = { [K in Exclude<keyof CheckedSettings, 'tokens' | 'tokensPerParameter'>]: Exclude<CheckedSettings[K], undefined> } & {
  /** Parameters without the predictors. */
  parameters: number;
};

const TOKENS_AT_A_TIME = 16_384;
const MOST_WARMUP = 300;

/**
 * Fills in the settings that depend on the model, and on how many processes share a batch. `config` is the one that comes
 * out of the training.
 */
export function planRun(settings: CheckedSettings, config: ModelConfig, ranks = 1): RunSettings {
  const { tokens, tokensPerParameter, ...rest } = settings;
  const parameters = countParameters(config);
  const sequenceLength = settings.sequenceLength ?? Math.min(4096, config.maxPositions);
  const wanted = tokens ?? tokensPerParameter * parameters;
  const share = Math.max(1, Math.floor(settings.batchSize / ranks));
  const steps = settings.steps ?? Math.max(1, Math.floor(wanted / (sequenceLength * settings.batchSize)));
  return {
    ...rest,
    parameters, steps, sequenceLength,
    microBatch: settings.microBatch === undefined ? largestDivisor(share, TOKENS_AT_A_TIME / sequenceLength) : Math.min(share, settings.microBatch),
    warmupSteps: settings.warmupSteps ?? Math.min(MOST_WARMUP, Math.ceil(steps * 0.02)),
    window: config.spkv?.window ?? 1,
    threshold: config.spkv?.threshold ?? 0,
    predictorHiddenSize: config.spkv?.predictorHiddenSize ?? 0,
    validateEvery: settings.validateEvery ?? Math.ceil(steps / 20),
    saveEvery: settings.saveEvery ?? Math.ceil(steps / 10),
  };
}

function largestDivisor(value: number, most: number): number {
  let divisor = Math.max(1, Math.min(value, Math.floor(most)));
  while (value % divisor !== 0) divisor--;
  return divisor;
}

/** Weights of a model, those of predictors left out: what a number of tokens per parameter refers to. */
export function countParameters(config: ModelConfig): number {
  const tensors = planTensors(weightPlan({ ...config, spkv: undefined }));
  return tensors.reduce((sum, { shape }) => sum + shape.reduce((size, extent) => size * extent, 1), 0);
}
