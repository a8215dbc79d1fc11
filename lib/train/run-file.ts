import { join, resolve } from 'node:path';
import { invalid, isFiniteNumber, options, string } from '../check.js';
import { SpkvError } from '../errors.js';
import { fileError } from '../files.js';
import { type JsonObject, readOptionalJson } from '../json.js';
import { type DataSource, type DataSources, resolveSources } from './data/sources.js';
import type { Ranks } from './parallel/ranks.js';
import { type CheckedSettings, checkSettings, type GivenSettings, SETTING_NAMES, SETTINGS, type SettingName } from './settings.js';
import type { TrainEvent } from './train.js';

export interface TrainOptions extends GivenSettings {
  /** Checkpoint to start from. */
  model?: string;
  /** A config.json, to start from random weights instead. */
  config?: string;
  /** Directory with the tokenizer. Defaults to that of the model, or of the config. */
  tokenizer?: string;
  /** What to train on; also a token file that another run has made. */
  data?: DataSources;
  /** What to validate on, instead of a share of the data. Files of it are left out of the data. */
  validation?: DataSources;
  /** Directory of the run: checkpoints, log, report, and at the end the model. */
  out: string;
  /** Goes on with the run in `out` from its last checkpoint, with its settings. Defaults to false. */
  resume?: boolean;
  /** 'auto', 'cpu', 'cuda:0' and so on. Defaults to 'auto'. */
  device?: string;
  /** Threads of the CPU. Defaults to the physical cores. */
  threads?: number;
  /** Floating-point operations per second that utilisation refers to. Defaults to a measurement. */
  peakFlops?: number;
  /** The processes that train together. Defaults to what the environment says: see docs/training.md. */
  ranks?: Ranks;
  /** Told of everything that happens, see {@link TrainEvent}. */
  onProgress?: (event: TrainEvent) => void;
  onWarning?: (message: string) => void;
  /** Stops the run: it saves a checkpoint and resolves. */
  signal?: AbortSignal;
}

const OTHER_NAMES = [
  'model', 'config', 'tokenizer', 'data', 'validation', 'out', 'resume', 'device', 'threads', 'peakFlops', 'ranks', 'onProgress', 'onWarning', 'signal',
] as const satisfies readonly (keyof TrainOptions)[];

/** What a run was asked for: run.json, from which it can go on. */
export interface RunFile {
  version: 1;
  model: string | null;
  config: string | null;
  tokenizer: string | null;
  data: DataSource[];
  validation: DataSource[] | null;
  settings: CheckedSettings;
}

export const RUN_FILE = 'run.json';

/** The options that are no settings of the run. */
export interface Surroundings {
  out: string;
  resume: boolean;
  device: string;
  threads: number | undefined;
  peakFlops: number | undefined;
  onProgress: (event: TrainEvent) => void;
  onWarning: (message: string) => void;
  signal: AbortSignal | undefined;
}

/**
 * Checks the options, and reads those of the run that they continue.
 * Errors: INVALID_ARGUMENT; FILE where there is no run to continue, or one already.
 */
export async function readOptions(given: TrainOptions): Promise<{ run: RunFile; surroundings: Surroundings }> {
  const checked = options(given, 'training options', [...SETTING_NAMES, ...OTHER_NAMES]) as TrainOptions;
  const surroundings = checkSurroundings(checked);
  const path = join(surroundings.out, RUN_FILE);
  const existing = (await readOptionalJson(path)) as (JsonObject & RunFile) | undefined;
  if (!surroundings.resume) {
    if (existing) throw fileError(path, 'expected no run in the output directory, found one; continue it with "resume", or choose another directory');
    return { run: newRun(checked), surroundings };
  }
  if (!existing) throw fileError(path, 'expected the run to continue, found no such file');
  if (existing.version !== 1) throw fileError(path, 'expected a run of this version of spkv, found one of another');
  return { run: continued(existing, checked), surroundings };
}

function checkSurroundings({ out, resume, device, threads, peakFlops, onProgress, onWarning, signal }: TrainOptions): Surroundings {
  if (peakFlops !== undefined && !isFiniteNumber(peakFlops, 1)) throw invalid('a number of at least 1', 'peakFlops', peakFlops);
  return {
    out: resolve(string(out, 'out')),
    resume: resume === true,
    device: device ?? 'auto',
    threads, peakFlops, signal,
    onProgress: onProgress ?? (() => {}),
    onWarning: onWarning ?? (() => {}),
  };
}

function newRun(given: TrainOptions): RunFile {
  const { model, config, tokenizer, data, validation } = given;
  if ((model === undefined) === (config === undefined)) {
    throw new SpkvError('INVALID_ARGUMENT', 'Expected either model, a checkpoint to start from, or config, to start from random weights');
  }
  if (data === undefined) throw invalid('files or directories', 'data', data);
  const path = (value: string | undefined, name: string) => (value === undefined ? null : resolve(string(value, name)));
  return {
    version: 1,
    model: path(model, 'model'), config: path(config, 'config'), tokenizer: path(tokenizer, 'tokenizer'),
    data: absolute(resolveSources(data, 'data')),
    validation: validation === undefined ? null : absolute(resolveSources(validation, 'validation')),
    settings: checkSettings(given),
  };
}

/** The run as it was, but for settings that may change. What else is given must be what it was. */
function continued(run: RunFile, given: TrainOptions): RunFile {
  const settings = { ...run.settings } as Record<SettingName, unknown>;
  const checked = checkSettings(given);
  for (const name of SETTING_NAMES) {
    if (given[name] === undefined || same(checked[name], settings[name])) continue;
    if (!('free' in SETTINGS[name])) throw fixed(name, settings[name], given[name]);
    settings[name] = checked[name];
  }
  const again = { ...run, settings: settings as CheckedSettings };
  for (const name of ['model', 'config', 'tokenizer'] as const) {
    const value = given[name];
    if (value !== undefined && resolve(value) !== run[name]) throw fixed(name, run[name], value);
  }
  for (const name of ['data', 'validation'] as const) {
    const value = given[name];
    if (value !== undefined && !same(absolute(resolveSources(value, name)), run[name])) throw fixed(name, run[name], value);
  }
  return again;
}

function fixed(name: string, before: unknown, now: unknown): SpkvError {
  const text = (value: unknown) => JSON.stringify(value) ?? 'its default';
  return new SpkvError('INVALID_ARGUMENT', `Expected ${text(before)} for ${name}, with which the run began, but received ${text(now)}`);
}

function same(a: unknown, b: unknown): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}

function absolute(sources: DataSource[]): DataSource[] {
  return sources.map((source) => ({ ...source, path: resolve(source.path) }));
}
