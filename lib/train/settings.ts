import { boolean, integer, invalid, number, oneOf } from '../check.js';

// Every setting of a run, once: its type, range, default and meaning. The library checks options by this table, the
// command line makes its flags and help from it, and a run writes it down with its results.

interface Setting {
  /** For people; begins in lower case, without a full stop. */
  help: string;
  /** What the default is where it depends on other things. */
  otherwise?: string;
  /** May differ between a run and its continuation: it does not decide what is learned. */
  free?: true;
}

export type NumberSetting = Setting & { kind: 'integer' | 'number'; min: number; max?: number; default: number | undefined };
export type FlagSetting = Setting & { kind: 'flag'; default: false };
export type ChoiceSetting = Setting & { kind: 'choice'; choices: readonly string[]; default: string };
export type ListSetting = Setting & { kind: 'list'; min: number; max: number; default: readonly number[] };
export type AnySetting = NumberSetting | FlagSetting | ChoiceSetting | ListSetting;

export const SETTINGS = {
  // How long
  steps: { kind: 'integer', min: 1, default: undefined, otherwise: 'as many as the tokens need', help: 'optimiser steps' },
  tokens: { kind: 'number', min: 1, default: undefined, otherwise: 'by --tokens-per-parameter', help: 'tokens to train on' },
  tokensPerParameter: { kind: 'number', min: 1e-6, default: 20, help: 'tokens to train on for every parameter of the model' },
  // How much at a time
  sequenceLength: { kind: 'integer', min: 2, max: 2 ** 20, default: undefined, otherwise: '4096, or the positions of the model', help: 'tokens of a sequence' },
  batchSize: { kind: 'integer', min: 1, max: 2 ** 20, default: 32, help: 'sequences of a step' },
  microBatch: { kind: 'integer', min: 1, max: 2 ** 20, default: undefined, otherwise: 'what makes at most 16,384 tokens', free: true, help: 'sequences computed at a time; less takes less memory' },
  recompute: { kind: 'flag', default: false, free: true, help: 'compute activations again for the backward pass: less memory, more time' },
  // How fast to learn
  learningRate: { kind: 'number', min: 0, max: 10, default: 1e-3, help: 'peak learning rate' },
  warmupSteps: { kind: 'integer', min: 0, default: undefined, otherwise: '2 % of the steps, at most 300', help: 'steps until the peak' },
  decay: { kind: 'choice', choices: ['cosine', 'constant'], default: 'cosine', help: 'how the learning rate goes on from the peak' },
  learningRateFloor: { kind: 'number', min: 0, max: 1, default: 0.05, help: 'where the cosine ends, as a share of the peak' },
  predictorRate: { kind: 'number', min: 0, max: 1000, default: 5, help: 'learning rate of the predictors, as a multiple' },
  weightDecay: { kind: 'number', min: 0, max: 100, default: 0.1, help: 'decay of matrices; norms and biases of the model have none' },
  beta1: { kind: 'number', min: 0, max: 0.999999, default: 0.9, help: 'AdamW: memory of the mean' },
  beta2: { kind: 'number', min: 0, max: 0.999999, default: 0.95, help: 'AdamW: memory of the variance' },
  epsilon: { kind: 'number', min: 1e-30, max: 1, default: 1e-8, help: 'AdamW: added to the root of the variance' },
  clip: { kind: 'number', min: 1e-12, default: 1, help: 'largest norm of the gradient' },
  // What to learn
  dense: { kind: 'flag', default: false, help: 'no gates and no predictors: pre-training, or a control' },
  window: { kind: 'integer', min: 1, max: 2 ** 20, default: undefined, otherwise: 'the model\'s, or 128', help: 'tokens that are always seen' },
  threshold: { kind: 'number', min: 0, max: 1, default: undefined, otherwise: 'the model\'s, or 0.5', help: 'utility from which a pair is kept, in the hard gates and by default later' },
  predictorHiddenSize: { kind: 'integer', min: 1, max: 2 ** 17, default: undefined, otherwise: 'the model\'s, or a quarter of its width', help: 'hidden units of a predictor' },
  predictorBias: { kind: 'number', min: -50, max: 50, default: 5, help: 'where new predictors start: 5 keeps nearly all' },
  softShare: { kind: 'number', min: 0, max: 1, default: 0.75, help: 'share of the steps with soft gates, before they become hard' },
  annealSteps: { kind: 'integer', min: 1, default: 500, help: 'steps in which they become hard, at most half of what is left' },
  densityWeight: { kind: 'number', min: 0, max: 1e6, default: 0, help: 'added to the loss: this much times the mean utility' },
  // From what
  packing: { kind: 'choice', choices: ['documents', 'stream'], default: 'documents', help: 'documents: they do not see each other in a sequence; stream: they do' },
  needles: { kind: 'number', min: 0, max: 1, default: 0, help: 'share of sequences with notes that are asked for at the end' },
  skipBadData: { kind: 'flag', default: false, help: 'leave data out that cannot be used, instead of failing' },
  seed: { kind: 'integer', min: 0, max: 2 ** 32 - 1, default: 0, help: 'another one shuffles and starts differently' },
  // What to look at
  validationShare: { kind: 'number', min: 0, max: 0.5, default: 0.02, help: 'share of the documents set aside for validation' },
  validationTokens: { kind: 'integer', min: 1, default: 65_536, free: true, help: 'tokens that a validation reads, at most' },
  validateEvery: { kind: 'integer', min: 1, default: undefined, otherwise: 'a twentieth of the run', free: true, help: 'steps between validations' },
  validationThresholds: { kind: 'list', min: 0, max: 1, default: [0.3, 0.5, 0.7], free: true, help: 'thresholds at which hard gates are measured' },
  // What to keep
  saveEvery: { kind: 'integer', min: 1, default: undefined, otherwise: 'a tenth of the run', free: true, help: 'steps between checkpoints' },
  keep: { kind: 'integer', min: 1, default: 2, free: true, help: 'checkpoints that stay, beside the best one' },
  dtype: { kind: 'choice', choices: ['bf16', 'f32'], default: 'bf16', free: true, help: 'element type of the weights written' },
} as const satisfies Record<string, AnySetting>;

type Table = typeof SETTINGS;
export type SettingName = keyof Table;

type ValueOf<S> = S extends { kind: 'flag' } ? boolean
  : S extends { choices: readonly (infer C)[] } ? C
  : S extends { kind: 'list' } ? readonly number[]
  : number;

/** The settings that a user may give. What is left out takes its default. */
export type GivenSettings = { -readonly [K in SettingName]?: ValueOf<Table[K]> };

/** Settings without those whose default depends on the model or the data. */
export type CheckedSettings = { [K in SettingName]: Table[K]['default'] extends undefined ? ValueOf<Table[K]> | undefined : ValueOf<Table[K]> };

export const SETTING_NAMES = Object.keys(SETTINGS) as SettingName[];

/** Checks every setting by the table and fills in the plain defaults. Errors: INVALID_ARGUMENT. */
export function checkSettings(given: GivenSettings): CheckedSettings {
  const values = SETTING_NAMES.map((name) => [name, checkSetting(name, SETTINGS[name], given[name])]);
  const checked = Object.fromEntries(values) as CheckedSettings;
  const budgets = (['steps', 'tokens', 'tokensPerParameter'] as const).filter((name) => given[name] !== undefined);
  if (budgets.length > 1) throw invalid(`only one of steps, tokens and tokensPerParameter`, budgets[1]!, given[budgets[1]!]);
  return checked;
}

function checkSetting(name: string, setting: AnySetting, value: unknown): unknown {
  if (value === undefined) return setting.default;
  switch (setting.kind) {
    case 'integer':
      return integer(value, name, setting.min, setting.max);
    case 'number':
      return number(value, name, setting.min, setting.max);
    case 'flag':
      return boolean(value, name);
    case 'choice':
      return oneOf(value, name, setting.choices);
    case 'list':
      if (!Array.isArray(value)) throw invalid('a list of numbers', name, value);
      return value.map((item: unknown) => number(item, name, setting.min, setting.max));
  }
}

/** predictorHiddenSize as predictor_hidden_size, the way names are written in config.json. */
export function snakeCase(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
