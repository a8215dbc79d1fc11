import { type Command, Option } from 'commander';
import { SpkvError } from '../errors.js';
import { type AnySetting, type DataSource, type GivenSettings, ranksOf, SETTINGS, type TrainOptions } from '../train/index.js';
import { DEVICE_HELP, flagName, list, type OutputFlags, pick, real, repeated, whole } from './options.js';

export interface TrainFlags extends GivenSettings, OutputFlags {
  model?: string;
  config?: string;
  tokenizer?: string;
  data?: string[];
  pattern?: string[];
  field?: string;
  validation?: string[];
  out: string;
  resume?: boolean;
  device?: string;
  threads?: number;
  gpus?: number;
  peakFlops?: number;
}

const NAMES = Object.keys(SETTINGS) as (keyof GivenSettings)[];

/** Paths and devices by hand, all settings by their table. */
export function addTrainOptions(command: Command): Command {
  command
    .option('-m, --model <dir>', 'checkpoint to start from')
    .option('--config <file>', 'a config.json, to start from random weights instead')
    .option('--tokenizer <dir>', 'directory with the tokenizer (default: that of the model, or of the config)')
    .option('-d, --data <path>', 'text file, JSONL file, or directory of such files; repeatable', repeated)
    .option('--pattern <glob>', 'which files of the directories, such as "**/*.py"; repeatable (default: all)', repeated)
    .option('--field <name>', 'field of JSONL records that holds the text, or token ids (default: text)')
    .option('--validation <path>', 'data to validate on, instead of a share of the data; repeatable', repeated)
    .requiredOption('-o, --out <dir>', 'directory of the run')
    .option('--resume', 'go on with the run in --out, with its settings')
    .option('--device <name>', DEVICE_HELP)
    .option('--gpus <count>', 'train on so many GPUs of this machine together, with a process for each', whole(1, 64))
    .option('--threads <count>', 'compute on the CPU with so many threads (default: the physical cores)', whole(1, 1024))
    .option('--peak-flops <count>', 'what utilisation refers to (default: measured)', real(1));
  for (const name of NAMES) command.addOption(settingOption(name, SETTINGS[name]));
  return command;
}

/** The library fills in the defaults: a flag that is not given must stay away, so that a run can be resumed. */
function settingOption(name: string, setting: AnySetting): Option {
  const fallback = setting.otherwise ?? (Array.isArray(setting.default) ? setting.default.join(',') : String(setting.default));
  if (setting.kind === 'flag') return new Option(flagName(name), setting.help);
  const help = `${setting.help} (default: ${fallback})`;
  switch (setting.kind) {
    case 'integer':
      return new Option(`${flagName(name)} <count>`, help).argParser(whole(setting.min, setting.max));
    case 'number':
      return new Option(`${flagName(name)} <value>`, help).argParser(real(setting.min, setting.max));
    case 'list':
      return new Option(`${flagName(name)} <values>`, help).argParser(list(real(setting.min, setting.max)));
    case 'choice':
      return new Option(`${flagName(name)} <kind>`, help).choices(setting.choices);
  }
}

export function trainOptions(flags: TrainFlags, command: Command): TrainOptions {
  const { data, validation, pattern, field } = flags;
  const source = (path: string): DataSource => ({ path, ...(pattern && { pattern }), ...(field !== undefined && { field }) });
  if (flags.gpus !== undefined && flags.device !== undefined) command.error('error: --gpus takes the first GPUs; give either it or --device');
  if (flags.gpus !== undefined && ranksOf()) command.error('error: --gpus starts the processes itself; give it where RANK and WORLD_SIZE are not set');
  if (!flags.resume && data === undefined) command.error('error: give the text to train on with --data');
  if (!flags.resume && (flags.model === undefined) === (flags.config === undefined)) {
    command.error('error: give a checkpoint with --model, or a config.json with --config to start from random weights');
  }
  return {
    ...pick(flags, [...NAMES, 'model', 'config', 'tokenizer', 'out', 'resume', 'device', 'threads', 'peakFlops']),
    ...(data && { data: data.map(source) }),
    ...(validation && { validation: validation.map(source) }),
  };
}

/** Names of settings in an error of the library, as the flags that they are here. */
export function withFlagNames(error: unknown): unknown {
  if (!(error instanceof SpkvError)) return error;
  const names = NAMES.filter((name) => /[A-Z]/.test(name));
  const message = error.message
    .replace(new RegExp(`\\b(${names.join('|')})\\b`, 'g'), flagName)
    .replace(new RegExp(` for (${NAMES.join('|')}|model|config|tokenizer|data|validation|out)\\b`, 'g'), (_, name: string) => ` for ${flagName(name)}`)
    .replace('with "resume"', 'with --resume').replace('turn recompute on', 'give --recompute');
  return new SpkvError(error.code, message, { cause: error });
}
