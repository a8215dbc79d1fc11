import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { arch, availableParallelism, cpus, release, totalmem, type } from 'node:os';
import { fileURLToPath } from 'node:url';

/** What a measurement depends on, with nothing that names the machine or where files lie on it. */
export interface Machine {
  cpu: string;
  /** Cores that this process may use. */
  cores: number;
  /** Vector extensions that the kernels choose between; empty where they cannot be read. */
  features: string[];
  memoryGiB: number;
  os: string;
  node: string;
}

const FEATURES = ['avx2', 'fma', 'avx512f', 'avx512bw', 'avx512_vnni', 'avx512_bf16', 'amx_bf16', 'asimd', 'bf16', 'sve'];

export function machine(): Machine {
  return {
    cpu: cpus()[0]?.model.trim() || 'unknown',
    cores: availableParallelism(),
    features: cpuFlags().filter((flag) => FEATURES.includes(flag)),
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    os: `${type()} ${release()} ${arch()}`,
    node: process.version,
  };
}

/** The commit that was measured, marked where files differ from it; undefined outside a git checkout. */
export function commit(): string | undefined {
  const cwd = fileURLToPath(new URL('.', import.meta.url));
  const git = (...args: string[]) => execFileSync('git', args, { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
  try {
    const changed = git('status', '--porcelain', '--untracked-files=no', '--', '.', ':!results', '../lib', '../native', '../binding.gyp', '../CMakeLists.txt');
    return git('rev-parse', '--short=12', 'HEAD') + (changed ? '-changed' : '');
  } catch {
    return undefined;
  }
}

function cpuFlags(): string[] {
  try {
    const [, flags = ''] = /^(?:flags|Features)\s*:\s*(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8')) ?? [];
    return flags.split(' ');
  } catch {
    return [];
  }
}
