import { dirname, join } from 'node:path';
import { type Checkpoint, openCheckpoint } from '../checkpoint/checkpoint.js';
import { type ModelConfig, parseConfig } from '../checkpoint/config.js';
import { fileError } from '../files.js';
import { isObject, type JsonObject, readOptionalJson } from '../json.js';
import { loadTokenizer, type Tokenizer } from '../text/tokenizer.js';
import type { RunSettings } from './plan.js';
import type { RunFile } from './run-file.js';
import { type CheckedSettings, SETTING_NAMES, snakeCase } from './settings.js';

const DEFAULTS = { window: 128, threshold: 0.5 };
const DTYPES = { bf16: 'bfloat16', f32: 'float32' };

/** Where a run starts, and the shape of what comes out of it. */
export interface Origin {
  /** Undefined where the weights are random. */
  checkpoint: Checkpoint | undefined;
  /** config.json as it was read. */
  json: JsonObject;
  /** Of the trained model: with an "spkv" part unless it is dense. */
  config: ModelConfig;
  tokenizer: Tokenizer | undefined;
  tokenizerDir: string;
}

/** Errors: FILE, UNSUPPORTED. */
export async function openOrigin({ model, config: configPath, tokenizer, settings }: RunFile): Promise<Origin> {
  const path = configPath ?? join(model!, 'config.json');
  const json = await readOptionalJson(path);
  if (json === undefined) throw fileError(path, 'expected a file, found nothing');
  const checkpoint = model === null ? undefined : await openCheckpoint(model);
  const config = withSpkv(checkpoint?.config ?? parseConfig(json, path), settings);
  const tokenizerDir = tokenizer ?? model ?? dirname(path);
  return { checkpoint, json, config, tokenizerDir, tokenizer: await loadTokenizer(tokenizerDir) };
}

function withSpkv(config: ModelConfig, { dense, window, threshold, predictorHiddenSize }: CheckedSettings): ModelConfig {
  if (dense) return { ...config, spkv: undefined };
  const before = config.spkv;
  return {
    ...config,
    spkv: {
      window: window ?? before?.window ?? DEFAULTS.window,
      threshold: threshold ?? before?.threshold ?? DEFAULTS.threshold,
      predictorHiddenSize: predictorHiddenSize ?? before?.predictorHiddenSize ?? Math.max(16, Math.ceil(config.hiddenSize / 64) * 16),
      predictorActivation: 'silu',
    },
  };
}

/** The config.json of a checkpoint: that of the origin, with what pruning needs and how it was trained. */
export function checkpointJson({ json, config }: Origin, settings: RunSettings, progress: { step: number; tokens: number }): JsonObject {
  const { spkv: _, spkv_training: __, ...rest } = json;
  const dtypeName = 'dtype' in json ? 'dtype' : 'torch_dtype';
  const written = SETTING_NAMES.filter((name) => name in settings).map((name) => [snakeCase(name), settings[name as keyof RunSettings]]);
  const training = { ...progress, parameters: settings.parameters, ...Object.fromEntries(written) };
  const common = { ...rest, [dtypeName]: DTYPES[settings.dtype] };
  if (!config.spkv) return { ...common, spkv_training: training };
  const { window, threshold, predictorHiddenSize, predictorActivation } = config.spkv;
  const previous = isObject(json['spkv']) ? json['spkv'] : {};
  return {
    ...common,
    spkv: { ...previous, window, threshold, predictor_hidden_size: predictorHiddenSize, predictor_activation: predictorActivation, training },
  };
}
