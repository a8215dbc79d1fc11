import { integer, isInteger, options, string } from '../../check.js';
import { SpkvError } from '../../errors.js';

/** One process of those that train together, and where they meet. */
export interface Ranks {
  /** This process among all, from 0. */
  rank: number;
  /** How many there are. */
  size: number;
  /** This process among those of its host, from 0: it takes the GPU of that number. */
  localRank: number;
  /** Where rank 0 can be reached. */
  address: string;
  port: number;
  /** What all processes of one run know and others do not, if there is such a thing. */
  run?: string;
  /** Seconds until all ranks must have come. Defaults to 300. */
  patience?: number;
  /** Seconds without a sign of life after which a rank is taken for dead; one that ends is noticed at once. Defaults to 120. */
  silence?: number;
}

type Environment = Readonly<Record<string, string | undefined>>;

const NAMES = ['rank', 'size', 'localRank', 'address', 'port', 'run', 'patience', 'silence'] as const;

/** Errors: INVALID_ARGUMENT. */
export function checkRanks(given: Ranks): Ranks {
  const ranks = options(given, 'ranks', NAMES) as Ranks;
  integer(ranks.size, 'size of ranks', 1, 2 ** 16);
  integer(ranks.rank, 'rank of ranks', 0, ranks.size - 1);
  integer(ranks.localRank, 'localRank of ranks', 0, 2 ** 16);
  string(ranks.address, 'address of ranks');
  integer(ranks.port, 'port of ranks', 1, 65535);
  return ranks;
}

/**
 * What torchrun and its like (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT), or else Slurm's srun
 * (SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID), have told this process; undefined where it is alone.
 * Errors: INVALID_ARGUMENT, naming the variable that is missing or wrong.
 */
export function ranksOf(env: Environment = process.env): Ranks | undefined {
  return env['WORLD_SIZE'] !== undefined || env['RANK'] !== undefined ? ofLauncher(env) : ofSlurm(env);
}

function ofLauncher(env: Environment): Ranks | undefined {
  const size = variable(env, 'WORLD_SIZE', 1);
  const rank = variable(env, 'RANK', 0, size - 1);
  if (size === 1) return undefined;
  // Torchrun's agent listens on the port itself.
  const taken = env['TORCHELASTIC_USE_AGENT_STORE'] === 'True' ? 1 : 0;
  const run = env['TORCHELASTIC_RUN_ID'] ?? env['SPKV_RUN'];
  return {
    rank, size,
    localRank: variable(env, 'LOCAL_RANK', 0, 65536, rank),
    address: text(env, 'MASTER_ADDR'),
    port: variable(env, 'MASTER_PORT', 1, 65535 - taken) + taken,
    ...(run === undefined ? {} : { run }),
  };
}

function ofSlurm(env: Environment): Ranks | undefined {
  if (env['SLURM_PROCID'] === undefined || env['SLURM_NTASKS'] === undefined) return undefined;
  const size = variable(env, 'SLURM_NTASKS', 1);
  if (size === 1) return undefined;
  const job = env['SLURM_JOB_ID'] ?? '0';
  return {
    rank: variable(env, 'SLURM_PROCID', 0, size - 1), size,
    localRank: variable(env, 'SLURM_LOCALID', 0, 65536),
    address: env['MASTER_ADDR'] ?? firstHost(env),
    port: env['MASTER_PORT'] === undefined ? 20_000 + (Number.parseInt(job, 10) % 20_000 || 0) : variable(env, 'MASTER_PORT', 1, 65535),
    run: `${job}.${env['SLURM_STEP_ID'] ?? 0}`,
  };
}

/** The first of a list such as node[03-05,09],login1. */
function firstHost(env: Environment): string {
  const list = env['SLURM_STEP_NODELIST'] ?? env['SLURM_JOB_NODELIST'] ?? text(env, 'MASTER_ADDR');
  const [, prefix, number, suffix] = /^([^,[]+)(?:\[(\d+)[^\]]*\])?([^,[]*)/.exec(list) ?? [];
  return `${prefix ?? list}${number ?? ''}${suffix ?? ''}`;
}

function text(env: Environment, name: string): string {
  const value = env[name];
  if (value === undefined || value === '') throw new SpkvError('INVALID_ARGUMENT', `Expected ${name} in the environment: where rank 0 of the ${env['WORLD_SIZE'] ?? env['SLURM_NTASKS']} ranks can be reached`);
  return value;
}

function variable(env: Environment, name: string, min: number, max = 65536, otherwise?: number): number {
  const value = env[name];
  if (value === undefined && otherwise !== undefined) return otherwise;
  const number = value === undefined || value.trim() === '' ? NaN : Number(value);
  if (isInteger(number, min, max)) return number;
  throw new SpkvError('INVALID_ARGUMENT', `Expected an integer from ${min} to ${max} for ${name} in the environment but it is ${value === undefined ? 'not set' : `"${value}"`}`);
}
