import type { Command } from 'commander';
import { SpkvError } from '../errors.js';
import { printJson } from './open.js';
import { examples } from './options.js';
import { BUILD_CUDA_SCRIPT, BUILD_SCRIPT, shortPath } from './paths.js';

interface BuildScript {
  buildNative(options: { quiet: boolean }): void;
  isStale(): boolean;
  nativePath(): string;
}

interface BuildCudaScript {
  buildCuda(options: { quiet: boolean }): void;
  isCudaStale(): boolean;
  cudaPath(): string;
}

interface Flags {
  cuda?: boolean;
  ifNeeded?: boolean;
  json?: boolean;
  quiet?: boolean;
}

interface Built {
  path: string;
  built: boolean;
}

export function registerBuild(program: Command): void {
  const command = program
    .command('build')
    .summary('compile the native library')
    .description('Compiles the native library of this installation. It needs Python 3, make and a C++17 compiler.')
    .option('--cuda', 'the CUDA library too, for NVIDIA GPUs; needs the CUDA toolkit and CMake, but no GPU')
    .option('--if-needed', 'only what is missing or older than its sources')
    .option('--json', 'write one JSON object: path, built; with --cuda also cuda, the same of the CUDA library')
    .option('-q, --quiet', 'show what the compiler says only when it fails')
    .addHelpText('after', examples('spkv build', 'npx spkv build --if-needed --quiet', 'npx spkv build --cuda'))
    .action(async () => build(command.opts<Flags>()));
}

async function build(flags: Flags): Promise<void> {
  const { buildNative, isStale, nativePath } = (await import(BUILD_SCRIPT)) as BuildScript;
  const addon = compile(flags, nativePath(), isStale, buildNative);
  if (!flags.cuda) return flags.json ? printJson(addon) : undefined;
  const { buildCuda, isCudaStale, cudaPath } = (await import(BUILD_CUDA_SCRIPT)) as BuildCudaScript;
  const cuda = compile(flags, cudaPath(), isCudaStale, buildCuda);
  if (flags.json) await printJson({ ...addon, cuda });
}

function compile(
  { ifNeeded, json, quiet }: Flags, path: string, isStale: () => boolean, run: (options: { quiet: boolean }) => void,
): Built {
  const built = !ifNeeded || isStale();
  if (built) {
    try {
      run({ quiet: quiet === true || json === true });
    } catch (error) {
      throw new SpkvError('NATIVE', (error as Error).message, { cause: error });
    }
  }
  if (!json && !quiet) process.stderr.write(`${shortPath(path)} is ${built ? 'built' : 'up to date'}\n`);
  return { path, built };
}
