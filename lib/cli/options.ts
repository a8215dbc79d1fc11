import { type Command, InvalidArgumentError, Option } from 'commander';
import { BUNDLED_MODEL, CACHE_DTYPES, type CacheDType, type GenerateOptions, type ModelOptions, type SamplingOptions } from '../index.js';
import { resolveSampling } from '../sampling-options.js';

/** Options of every command that loads a model. */
export interface ModelFlags {
  model: string;
  device?: string;
  threads?: number;
  cacheDtype?: 'auto' | CacheDType;
  kvMemory?: number;
}

/** Options of every command that writes text. */
export interface GenerationFlags extends SamplingOptions {
  maxTokens?: number;
  threshold?: number;
  stop?: string[];
}

export interface OutputFlags {
  json?: boolean;
  quiet?: boolean;
  color: boolean;
}

export const DEVICE_HELP = 'where to compute: cpu, a GPU such as cuda:0, or auto, the best that is there (default: auto)';
const SIZE_UNITS: Readonly<Record<string, number>> = { '': 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 };

/** A parser of whole numbers; commander puts the option's name before its message. */
export function whole(min: number, max = Number.MAX_SAFE_INTEGER): (text: string) => number {
  return (text) => {
    const value = numeric(text);
    if (Number.isSafeInteger(value) && value >= min && value <= max) return value;
    throw new InvalidArgumentError(`Expected a whole number ${range(min, max === Number.MAX_SAFE_INTEGER ? Infinity : max)}.`);
  };
}

/** A parser of numbers. */
export function real(min: number, max = Infinity): (text: string) => number {
  return (text) => {
    const value = numeric(text);
    if (Number.isFinite(value) && value >= min && value <= max) return value;
    throw new InvalidArgumentError(`Expected a number${min === -Infinity ? '' : ` ${range(min, max)}`}.`);
  };
}

/** A parser of several values with a comma between them. */
export function list<T>(parse: (text: string) => T): (text: string) => T[] {
  return (text) => text.split(',').map(parse);
}

/** A parser of sizes in bytes: 1048576, 512M, 2G, 1.5GiB; units are powers of 1,024. */
export function size(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?$/i.exec(text.trim());
  const value = match ? Math.floor(Number(match[1]) * SIZE_UNITS[match[2]!.toUpperCase()]!) : 0;
  if (value >= 1 && Number.isSafeInteger(value)) return value;
  throw new InvalidArgumentError('Expected a size in bytes such as 512M or 2G.');
}

/** A parser of a sampling option, whose range the library knows. */
function sampling(name: keyof SamplingOptions): (text: string) => number {
  return (text) => {
    try {
      return resolveSampling({ [name]: numeric(text) })[name];
    } catch (error) {
      throw new InvalidArgumentError((error as Error).message.replace(/ for \w+ but received .*$/, '.'));
    }
  };
}

/** cacheDtype as --cache-dtype. */
export function flagName(option: string): string {
  return `--${option.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}

function numeric(text: string): number {
  return text.trim() === '' ? NaN : Number(text);
}

function range(min: number, max: number): string {
  return max === Infinity ? `of at least ${min}` : `from ${min} to ${max}`;
}

/** A parser of options that may be given several times. */
export function repeated(value: string, before: string[] = []): string[] {
  if (value === '') throw new InvalidArgumentError('Expected a text that is not empty.');
  return [...before, value];
}

export function addModelOptions(command: Command): Command {
  return command
    .addOption(new Option('-m, --model <dir>', 'checkpoint directory').default(BUNDLED_MODEL, 'the bundled code-6m-spkv'))
    .option('--device <name>', DEVICE_HELP)
    .option('--threads <count>', 'compute on the CPU with so many threads (default: the physical cores)', whole(1, 1024))
    .addOption(new Option('--cache-dtype <type>', 'how keys and values are stored; fp8 takes half of bf16 (default: as the weights are)').choices(['auto', ...CACHE_DTYPES]))
    .option('--kv-memory <size>', 'the most the cache may take, such as 512M or 2G (default: a quarter of the memory, on a GPU nine tenths of what is free)', size);
}

/** τ alone, for commands that read text but write none. */
export function addThresholdOption(command: Command): Command {
  return command.option(
    '-t, --threshold <tau>',
    'predicted usefulness from which a pair is kept; 0 keeps all, 1.01 only the window (default: the model\'s own)',
    real(0, 2),
  );
}

export function addGenerationOptions(command: Command): Command {
  return addThresholdOption(command.option('-n, --max-tokens <count>', 'most tokens to write (default: 256)', whole(1)))
    .option('--temperature <value>', '0 always takes the likeliest token (default: 0)', sampling('temperature'))
    .option('--top-k <count>', 'choose among this many tokens; 0 for all (default: 0)', sampling('topK'))
    .option('--top-p <share>', 'choose among the likeliest with this probability together (default: 1)', sampling('topP'))
    .option('--min-p <share>', 'leave out what is less likely than this share of the likeliest (default: 0)', sampling('minP'))
    .option('--repetition-penalty <factor>', 'above 1 makes tokens that occurred, in the prompt too, less likely (default: 1)', sampling('repetitionPenalty'))
    .option('--frequency-penalty <value>', 'lowers a token for every time it was written (default: 0)', sampling('frequencyPenalty'))
    .option('--presence-penalty <value>', 'lowers a token once if it was written (default: 0)', sampling('presencePenalty'))
    .option('--seed <number>', 'another seed draws other tokens (default: 0)', sampling('seed'))
    .option('--stop <text>', 'end before this text; repeatable', repeated);
}

export function addOutputOptions(command: Command, json: string): Command {
  return command.option('--json', json).option('-q, --quiet', 'no progress, warnings or summary on stderr');
}

/** Shown below the options in --help. */
export function examples(...lines: readonly string[]): string {
  return `\nExamples:\n${lines.map((line) => `  $ ${line}`).join('\n')}`;
}

export function modelOptions(flags: ModelFlags): ModelOptions {
  return pick(flags, ['device', 'threads', 'cacheDtype', 'kvMemory']);
}

export function generateOptions(flags: GenerationFlags): GenerateOptions {
  return pick(flags, [
    'maxTokens', 'threshold', 'stop', 'temperature', 'topK', 'topP', 'minP',
    'repetitionPenalty', 'frequencyPenalty', 'presencePenalty', 'seed',
  ]);
}

/** The named properties that are there: the library refuses what it does not know. */
export function pick<T extends object, K extends keyof T>(from: T, names: readonly K[]): Pick<T, K> {
  return Object.fromEntries(names.filter((name) => from[name] !== undefined).map((name) => [name, from[name]])) as Pick<T, K>;
}
