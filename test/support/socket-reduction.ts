// Stands in for NCCL where the ranks of a run compute on the CPU: gradients go through sockets.
import { createServer } from 'node:net';
import type { Tensor } from '../../lib/ops.js';
import { meet } from '../../lib/train/parallel/meet.js';
import type { OpenReduction } from '../../lib/train/parallel/reduction.js';

/**
 * A port of this machine that is free now. It lies below those that systems give to whoever asks for any: until it is
 * listened to, nothing else gets it by chance.
 */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = 10_000 + Math.floor(20_000 * Math.random());
    const server = createServer();
    const free = await new Promise<boolean>((resolve) => server.once('error', () => resolve(false)).listen(port, '127.0.0.1', () => resolve(true)));
    if (!free) continue;
    await new Promise((done) => server.close(done));
    return port;
  }
}

/** Sums in the order of the ranks, through a group of their own, beside that of the run. */
export const openSockets: OpenReduction = async (_, run) => {
  const { rank, size } = run;
  const [port] = await run.exchange('port', rank === 0 ? await freePort() : 0);
  const group = await meet({ rank, size, localRank: rank, address: '127.0.0.1', port: port!, run: 'sums', patience: 200 });
  run.onFailure(() => void group.close());
  group.onFailure(() => run.fail(group.failure!));
  let sums = Promise.resolve();
  return {
    sum(x) {
      const own = x.readFloats(); // in the order of the device
      sums = sums.then(async () => total(x, await own, (text) => group.exchange('sum', text)));
      sums.catch(() => {});
    },
    join: () => sums,
    dispose: () => group.close(),
  };
};

async function total(x: Tensor, own: Float32Array, exchange: (own: string) => Promise<string[]>): Promise<void> {
  const all = await exchange(Buffer.from(own.buffer, own.byteOffset, own.byteLength).toString('base64'));
  const sum = new Float32Array(own.length);
  for (const text of all) {
    const bytes = new Uint8Array(Buffer.from(text, 'base64'));
    const values = new Float32Array(bytes.buffer);
    for (let i = 0; i < sum.length; i++) sum[i] = sum[i]! + values[i]!;
  }
  x.write(sum);
}
