import type { Command } from 'commander';
import { SpkvError } from '../errors.js';
import { printJson } from './open.js';
import { examples } from './options.js';
import { BUILD_SCRIPT, shortPath } from './paths.js';

interface BuildScript {
  buildNative(options: { quiet: boolean }): void;
  isStale(): boolean;
  nativePath(): string;
}

interface Flags {
  ifNeeded?: boolean;
  json?: boolean;
  quiet?: boolean;
}

export function registerBuild(program: Command): void {
  const command = program
    .command('build')
    .summary('compile the native library')
    .description('Compiles the native library of this installation. It needs Python 3, make and a C++17 compiler.')
    .option('--if-needed', 'only when it is missing or older than its sources')
    .option('--json', 'write one JSON object: path, built')
    .option('-q, --quiet', 'show what the compiler says only when it fails')
    .addHelpText('after', examples('spkv build', 'npx spkv build --if-needed --quiet'))
    .action(async () => build(command.opts<Flags>()));
}

async function build({ ifNeeded, json, quiet }: Flags): Promise<void> {
  const script = (await import(BUILD_SCRIPT)) as BuildScript;
  const needed = !ifNeeded || script.isStale();
  if (needed) {
    try {
      script.buildNative({ quiet: quiet === true || json === true });
    } catch (error) {
      throw new SpkvError('NATIVE', (error as Error).message, { cause: error });
    }
  }
  if (json) await printJson({ path: script.nativePath(), built: needed });
  else if (!quiet) process.stderr.write(`${shortPath(script.nativePath())} is ${needed ? 'built' : 'up to date'}\n`);
}
