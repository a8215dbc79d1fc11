import { cpus } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';

/** Cores kept busy by anyone, this process included, over the next `milliseconds`. */
export async function busyCores(milliseconds: number): Promise<number> {
  const before = cpus();
  await sleep(milliseconds);
  return cpus().reduce((busy, { times }, i) => {
    const was = before[i]?.times ?? times;
    const idle = times.idle - was.idle;
    const total = Object.keys(times).reduce((sum, key) => sum + times[key as keyof typeof times] - was[key as keyof typeof was], 0);
    return total > 0 ? busy + 1 - idle / total : busy;
  }, 0);
}

/**
 * Waits until the machine is idle, but no longer than `timeout` milliseconds, and gives the cores still busy then. Two
 * threads that meet at spinning barriers, as those of llama.cpp do, lose most of their speed to one busy neighbour.
 */
export async function quiet({ cores = 0.1, window = 700, timeout = 30_000 } = {}): Promise<number> {
  const end = Date.now() + timeout;
  for (;;) {
    const busy = await busyCores(window);
    if (busy <= cores || Date.now() + window > end) return busy;
  }
}
