import { type ChildProcess, spawn } from 'node:child_process';
import { createServer, type AddressInfo } from 'node:net';
import { EXIT } from './exit.js';

/** Seconds that the other processes have to end when one of them has failed. */
const GRACE_S = 60;

/**
 * Runs this very command as `count` processes, each with a GPU of its own, and resolves with the exit code. Rank 0 has the
 * terminal. A signal goes to it, and it stops the others; a second one kills all.
 */
export async function trainOnGpus(count: number, signals: readonly NodeJS.Signals[]): Promise<number> {
  const place = { WORLD_SIZE: `${count}`, MASTER_ADDR: '127.0.0.1', MASTER_PORT: `${await freePort()}`, SPKV_RUN: `${process.pid}-${Date.now()}` };
  const children = Array.from({ length: count }, (_, rank) => start(rank, place));
  const killAll = () => children.forEach((child) => child.kill('SIGKILL'));
  let interrupted = false;
  const interrupt = () => {
    if (interrupted) killAll();
    else children[0]!.kill('SIGINT');
    interrupted = true;
  };
  for (const signal of signals) process.on(signal, interrupt);
  let deadline: NodeJS.Timeout | undefined;
  try {
    const codes = await Promise.all(children.map(async (child, rank) => {
      const { code, signal, stderr } = await ended(child);
      if (code !== EXIT.ok && code !== EXIT.interrupted) deadline ??= setTimeout(killAll, GRACE_S * 1000);
      // What a rank reports as its error, rank 0 tells too.
      if (code !== EXIT.ok && !/^spkv: /m.test(stderr)) process.stderr.write(stderr.replace(/^(?=.)/gm, `rank ${rank}: `));
      if (signal !== null && !interrupted) process.stderr.write(`rank ${rank} was ended by ${signal}\n`);
      return code ?? EXIT.failure;
    }));
    return codes.find((code) => code !== EXIT.ok) ?? EXIT.ok;
  } finally {
    clearTimeout(deadline);
    for (const signal of signals) process.off(signal, interrupt);
  }
}

/** A process that ends with this one. In a group of its own, so that Ctrl-C comes once, from here. */
function start(rank: number, place: Record<string, string>): ChildProcess {
  return spawn(process.execPath, [...process.execArgv, ...withoutGpus(process.argv.slice(1))], {
    stdio: ['ignore', rank === 0 ? 'inherit' : 'ignore', rank === 0 ? 'inherit' : 'pipe', 'ipc'],
    env: { ...process.env, ...place, RANK: `${rank}`, LOCAL_RANK: `${rank}` },
    detached: true,
  });
}

/** Ends this process when the one that has started it is gone. */
export function endWithParent(): void {
  if (!process.connected) return;
  process.on('disconnect', () => process.exit(EXIT.failure));
  process.channel!.unref();
}

function ended(child: ChildProcess): Promise<{ code: number | null; signal: NodeJS.Signals | null; stderr: string }> {
  let stderr = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => (stderr += text));
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code, signal) => resolve({ code, signal, stderr }));
  });
}

function withoutGpus(args: readonly string[]): string[] {
  return args.filter((arg, i) => arg !== '--gpus' && args[i - 1] !== '--gpus' && !arg.startsWith('--gpus='));
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  const { port } = server.address() as AddressInfo;
  await new Promise((done) => server.close(done));
  return port;
}
