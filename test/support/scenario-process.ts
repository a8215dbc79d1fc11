// A scenario in a process of its own, since its end is what the test is about.
import { spawn } from 'node:child_process';

export interface Outcome {
  code: number | null;
  signal: string | null;
  errors: string;
  /** The line of JSON that the scenario printed. */
  result: unknown;
}

/** Nothing but a process that does not end takes so long; still less than tests have. */
const LIMIT_MS = 240_000;

/**
 * Runs a scenario of a file in test/support, with no more of its environment than the tests have themselves. glibc would
 * keep what is free by threads, and how many have some is a matter of luck: then memory says nothing of leaks.
 */
export function runScenario(file: string, args: readonly string[]): Promise<Outcome> {
  const child = spawn(process.execPath, ['--expose-gc', '--import', 'tsx', `test/support/${file}`, ...args], {
    env: { ...process.env, NODE_OPTIONS: '', MALLOC_ARENA_MAX: '1' },
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: LIMIT_MS,
    killSignal: 'SIGKILL',
  });
  let [output, errors] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (errors += text));
  return new Promise((resolve) => {
    child.on('close', (code, signal) => resolve({ code, signal, errors, result: output ? (JSON.parse(output) as unknown) : undefined }));
  });
}
