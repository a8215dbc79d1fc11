import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import type { Writable } from 'node:stream';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));

export interface CliResult {
  code: number | null;
  stdout: string;
  stderr: string;
}

export interface CliOptions {
  /** What the command finds on stdin. Defaults to nothing. */
  stdin?: string | Uint8Array;
  env?: Record<string, string>;
  /** Where what it has written to stdout fits, the process waits until `meanwhile` has been called, however late that is. */
  pause?: { at: RegExp; meanwhile: (child: ChildProcessWithoutNullStreams) => void };
  /** A package that is not found, as if it were not installed. */
  missing?: string;
  /** Modules that the process loads before its own. */
  preload?: readonly string[];
}

/** Runs the command line as users do, in a process of its own. */
export function spkv(args: readonly string[], { stdin = '', env = {}, pause, missing, preload = [] }: CliOptions = {}): Promise<CliResult> {
  // Jest's own flags must not reach the child, nor colours that the terminal of the tests may ask for.
  const { NODE_OPTIONS: _, FORCE_COLOR: __, ...inherited } = process.env;
  const modules = ['tsx', ...(missing === undefined ? [] : [without(missing)]), ...(pause ? [waitingAt(pause.at)] : []), ...preload];
  const child = spawn(process.execPath, [...modules.flatMap((name) => ['--import', name]), 'lib/cli/main.ts', ...args], {
    cwd: ROOT, env: { ...inherited, ...env }, stdio: ['pipe', 'pipe', 'pipe', 'pipe'],
  }) as ChildProcessWithoutNullStreams;
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    const before = stdout;
    stdout += text;
    if (!pause || pause.at.test(before) || !pause.at.test(stdout)) return;
    pause.meanwhile(child);
    (child.stdio[3] as Writable).end();
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
  child.stdin.on('error', () => {}); // a command that reads no stdin may close it first
  child.stdin.end(stdin);
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, stdout, stderr }));
  });
}

/** The URL of a module with this source. */
export const moduleOf = (source: string): string => `data:text/javascript,${encodeURIComponent(source)}`;

/** A module that lets the process wait for the end of descriptor 3 where what it has written to stdout fits. */
function waitingAt({ source }: RegExp): string {
  return moduleOf(`
    import { readSync } from 'node:fs';
    const write = process.stdout.write;
    let written = '';
    process.stdout.write = function (...args) {
      const done = write.apply(this, args);
      written += args[0];
      if (new RegExp(${JSON.stringify(source)}).test(written)) {
        process.stdout.write = write;
        readSync(3, new Uint8Array(1));
      }
      return done;
    };
  `);
}

/** A module that lets no other find `name`. */
function without(name: string): string {
  const hooks = `export async function resolve(name, context, next) {
    if (name === ${JSON.stringify(name)}) throw Object.assign(new Error("Cannot find package '${name}'"), { code: 'ERR_MODULE_NOT_FOUND' });
    return next(name, context);
  }`;
  return moduleOf(`import { register } from 'node:module'; register(${JSON.stringify(moduleOf(hooks))});`);
}

/** The value of the one JSON document, or of each line of them, that a command wrote. */
export function jsonLines<T>({ stdout }: CliResult): T[] {
  return stdout.trim().split('\n').map((line) => JSON.parse(line) as T);
}

/** Terminal output without its escape sequences. */
export function withoutColors(text: string): string {
  return text.split('\u001B[').map((part, i) => (i === 0 ? part : part.slice(part.indexOf('m') + 1))).join('');
}
