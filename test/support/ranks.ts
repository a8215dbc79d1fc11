import { type ChildProcess, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { ErrorCode } from '../../lib/errors.js';
import type { TrainOptions, TrainResult } from '../../lib/train/index.js';
import type { LogRecord } from '../../lib/train/log.js';
import { freePort } from './socket-reduction.js';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));

/** What became of one rank of a run. */
export interface RankResult {
  events: LogRecord[];
  result: TrainResult | undefined;
  error: { code: ErrorCode | 'other'; message: string } | undefined;
  stderr: string;
  code: number | null;
}

export interface RanksOptions {
  /** Changes for single ranks. */
  of?: (rank: number) => Partial<TrainOptions>;
  env?: (rank: number) => Record<string, string>;
  /** Told of every event of rank 0, with the processes. Rank 0 waits for what it returns. */
  onEvent?: (event: LogRecord, children: readonly ChildProcess[]) => unknown;
}

/** Trains with `size` processes of this machine, and waits until all have ended. */
export async function trainTogether(size: number, options: TrainOptions, { of = () => ({}), env = () => ({}), onEvent }: RanksOptions = {}): Promise<RankResult[]> {
  const place = { WORLD_SIZE: String(size), MASTER_ADDR: '127.0.0.1', MASTER_PORT: String(await freePort()) };
  const { NODE_OPTIONS: _, FORCE_COLOR: __, ...inherited } = process.env;
  const children = Array.from({ length: size }, (_, rank) =>
    spawn(process.execPath, ['--import', 'tsx', 'test/support/train-rank.ts', JSON.stringify({ ...options, ...of(rank) })], {
      cwd: ROOT, stdio: 'pipe', env: { ...inherited, ...place, RANK: String(rank), LOCAL_RANK: String(rank), ...env(rank) },
    }),
  );
  return Promise.all(children.map((child, rank) => listen(child, (event) => rank === 0 && onEvent?.(event, children))));
}

function listen(child: ReturnType<typeof spawn>, onEvent: (event: LogRecord) => unknown): Promise<RankResult> {
  const found: RankResult = { events: [], result: undefined, error: undefined, stderr: '', code: null };
  let rest = '';
  child.stdin!.on('error', () => {}); // it may have been killed
  child.stderr!.setEncoding('utf8').on('data', (text: string) => (found.stderr += text));
  child.stdout!.setEncoding('utf8').on('data', (text: string) => {
    const lines = (rest + text).split('\n');
    rest = lines.pop()!;
    for (const line of lines) {
      const value = JSON.parse(line) as LogRecord & Partial<RankResult>;
      if (value.result) found.result = value.result;
      else if (value.error) found.error = value.error;
      else {
        found.events.push(value);
        void Promise.resolve(onEvent(value)).then(() => child.stdin!.write('.'));
      }
    }
  });
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => resolve({ ...found, code }));
  });
}
