import { CommanderError } from 'commander';
import { SpkvError } from '../errors.js';
import { Interrupted } from './interrupt.js';
import { flagName } from './options.js';

/** Exit codes of every command; EXIT_HELP says the same to people. */
export const EXIT = { ok: 0, failure: 1, usage: 2, interrupted: 130 } as const;

export const EXIT_HELP = `
Exit codes:
  0    done
  1    failed: a file, the model, memory or the native library
  2    wrong usage: an unknown option or command, a value out of range
  130  interrupted with Ctrl-C

SPKV_DEBUG=1 adds a stack trace to errors. NO_COLOR=1 turns colours off, FORCE_COLOR=1 to 3 on.`;

/** Says on stderr what went wrong, in one line, and returns the exit code. Commander has spoken for its own errors. */
export function report(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.ok : EXIT.usage;
  if (error instanceof Interrupted) return EXIT.interrupted;
  process.stderr.write(`spkv: ${withOptionNames(describeError(error))}\n`);
  if (process.env['SPKV_DEBUG'] && error instanceof Error) process.stderr.write(`${error.stack}\n`);
  return error instanceof SpkvError && error.code === 'INVALID_ARGUMENT' ? EXIT.usage : EXIT.failure;
}

/** Arguments of the library are options here. */
function withOptionNames(message: string): string {
  return message.replace(/ for (device|threads|cacheDtype|kvMemory|maxTokens|threshold|stop)\b/g, (_, name: string) => ` for ${flagName(name)}`);
}

/** `CODE: message` where there is a code. */
export function describeError(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { code } = error as { code?: unknown };
  const hint = code === 'POOL_EXHAUSTED' ? '; --kv-memory gives the cache more room' : '';
  return typeof code === 'string' && !error.message.startsWith(code) ? `${code}: ${error.message}${hint}` : error.message;
}

/** Whoever reads the output may leave early (`spkv generate ... | head`); that is no failure. */
export function leaveQuietlyOnClosedPipe(): void {
  for (const stream of [process.stdout, process.stderr]) {
    stream.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EPIPE') process.exit(process.exitCode ?? EXIT.ok);
      throw error;
    });
  }
}
