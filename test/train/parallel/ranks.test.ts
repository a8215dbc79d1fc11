import { checkRanks, type Ranks, ranksOf } from '../../../lib/train/parallel/ranks.js';
import { expectError } from '../../support/errors.js';

const TORCHRUN = { RANK: '3', WORLD_SIZE: '8', LOCAL_RANK: '1', MASTER_ADDR: '10.0.0.1', MASTER_PORT: '29500' };
const SLURM = { SLURM_PROCID: '5', SLURM_NTASKS: '8', SLURM_LOCALID: '1', SLURM_JOB_ID: '123456', SLURM_STEP_ID: '2', SLURM_STEP_NODELIST: 'gpu[07-08,11]' };

test.each<[name: string, env: Record<string, string>, expected: Ranks | undefined]>([
  ['nothing', {}, undefined],
  ['one process', { RANK: '0', WORLD_SIZE: '1' }, undefined],
  ['RANK and WORLD_SIZE', TORCHRUN, { rank: 3, size: 8, localRank: 1, address: '10.0.0.1', port: 29500 }],
  ['no LOCAL_RANK: the rank', { ...TORCHRUN, LOCAL_RANK: undefined as never }, { rank: 3, size: 8, localRank: 3, address: '10.0.0.1', port: 29500 }],
  ['torchrun, whose agent has the port', { ...TORCHRUN, TORCHELASTIC_USE_AGENT_STORE: 'True', TORCHELASTIC_RUN_ID: 'abc' }, { rank: 3, size: 8, localRank: 1, address: '10.0.0.1', port: 29501, run: 'abc' }],
  ['Slurm', SLURM, { rank: 5, size: 8, localRank: 1, address: 'gpu07', port: 23456, run: '123456.2' }],
  ['Slurm, with an address', { ...SLURM, MASTER_ADDR: 'head', MASTER_PORT: '4000' }, { rank: 5, size: 8, localRank: 1, address: 'head', port: 4000, run: '123456.2' }],
  ['Slurm, with one host', { ...SLURM, SLURM_STEP_NODELIST: 'gpu07.cluster' }, { rank: 5, size: 8, localRank: 1, address: 'gpu07.cluster', port: 23456, run: '123456.2' }],
  ['Slurm, with hosts that are not numbered', { ...SLURM, SLURM_STEP_NODELIST: 'alpha,beta' }, { rank: 5, size: 8, localRank: 1, address: 'alpha', port: 23456, run: '123456.2' }],
  ['Slurm, with one task', { ...SLURM, SLURM_PROCID: '0', SLURM_NTASKS: '1' }, undefined],
  ['both: the launcher', { ...SLURM, ...TORCHRUN }, { rank: 3, size: 8, localRank: 1, address: '10.0.0.1', port: 29500 }],
])('the environment of %s', (_, env, expected) => {
  expect(ranksOf(env)).toEqual(expected);
});

test.each<[changes: Record<string, string | undefined>, ...parts: string[]]>([
  [{ RANK: undefined }, 'from 0 to 7 for RANK', 'not set'],
  [{ WORLD_SIZE: undefined }, 'WORLD_SIZE', 'not set'],
  [{ RANK: '8' }, 'from 0 to 7 for RANK', '"8"'],
  [{ WORLD_SIZE: 'many' }, 'WORLD_SIZE', '"many"'],
  [{ MASTER_ADDR: undefined }, 'MASTER_ADDR', '8 ranks'],
  [{ MASTER_PORT: undefined }, 'MASTER_PORT', 'not set'],
  [{ MASTER_PORT: '70000' }, 'from 1 to 65535 for MASTER_PORT'],
  [{ LOCAL_RANK: '-1' }, 'LOCAL_RANK'],
])('an environment that does not hold together: %j', async (changes, ...parts) => {
  await expectError(() => ranksOf({ ...TORCHRUN, ...changes }), 'INVALID_ARGUMENT', ...parts);
});

test('ranks that a program gives are checked', async () => {
  const ranks: Ranks = { rank: 0, size: 2, localRank: 0, address: 'here', port: 4000 };
  expect(checkRanks(ranks)).toEqual(ranks);
  for (const [changes, name] of [[{ rank: 2 }, 'rank'], [{ size: 0 }, 'size'], [{ port: 0 }, 'port'], [{ address: 7 }, 'address'], [{ worldSize: 2 }, 'worldSize']] as const) {
    await expectError(() => checkRanks({ ...ranks, ...changes } as never), 'INVALID_ARGUMENT', name);
  }
});
