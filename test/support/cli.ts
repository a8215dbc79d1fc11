import { type ChildProcess, spawn } from 'node:child_process';
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
  /** Sends SIGINT when stdout has this many characters. */
  interruptAfter?: number;
  /** Closes stdout when it has this many characters, as `head` does. */
  closeAfter?: number;
  /** A package that is not found, as if it were not installed. */
  missing?: string;
  /** Told of the process, and what it has written, whenever it writes to stdout. */
  onOutput?: (child: ChildProcess, stdout: string) => void;
}

/** Runs the command line as users do, in a process of its own. */
export function spkv(args: readonly string[], { stdin = '', env = {}, interruptAfter, closeAfter, missing, onOutput }: CliOptions = {}): Promise<CliResult> {
  // Jest's own flags must not reach the child, nor colours that the terminal of the tests may ask for.
  const { NODE_OPTIONS: _, FORCE_COLOR: __, ...inherited } = process.env;
  const child = spawn(process.execPath, ['--import', 'tsx', ...(missing === undefined ? [] : ['--import', without(missing)]), 'lib/cli/main.ts', ...args], { cwd: ROOT, env: { ...inherited, ...env } });
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    const before = stdout.length;
    stdout += text;
    const reached = (mark: number | undefined) => mark !== undefined && before < mark && stdout.length >= mark;
    if (reached(interruptAfter)) child.kill('SIGINT');
    if (reached(closeAfter)) child.stdout.destroy();
    onOutput?.(child, stdout);
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
  child.stdin.on('error', () => {}); // a command that reads no stdin may close it first
  child.stdin.end(stdin);
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, stdout, stderr }));
  });
}

/** A module that lets no other find `name`. */
function without(name: string): string {
  const hooks = `export async function resolve(name, context, next) {
    if (name === ${JSON.stringify(name)}) throw Object.assign(new Error("Cannot find package '${name}'"), { code: 'ERR_MODULE_NOT_FOUND' });
    return next(name, context);
  }`;
  const url = (source: string) => `data:text/javascript,${encodeURIComponent(source)}`;
  return url(`import { register } from 'node:module'; register(${JSON.stringify(url(hooks))});`);
}

/** The value of the one JSON document, or of each line of them, that a command wrote. */
export function jsonLines<T>({ stdout }: CliResult): T[] {
  return stdout.trim().split('\n').map((line) => JSON.parse(line) as T);
}

/** Terminal output without its escape sequences. */
export function withoutColors(text: string): string {
  return text.split('\u001B[').map((part, i) => (i === 0 ? part : part.slice(part.indexOf('m') + 1))).join('');
}
