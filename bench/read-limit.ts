import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import type { Device } from '../lib/ops.js';

const MEGABYTES = 384;
const ROUNDS = 7;

/**
 * How fast the CPU reads memory, in GB/s: all cores compare equal buffers far larger than the caches, with the C
 * library's memcmp. Independent of spkv's kernels. The median of a few rounds; undefined for other devices.
 */
export async function readLimit(device: Device): Promise<number | undefined> {
  if (device.name !== 'cpu') return undefined;
  const cores = availableParallelism();
  const source = `
    const { parentPort, workerData } = require('node:worker_threads');
    const a = Buffer.alloc(workerData << 20, 7), b = Buffer.alloc(workerData << 20, 7);
    parentPort.on('message', () => { a.equals(b); parentPort.postMessage(0); });
    parentPort.postMessage(0);`;
  const workers = Array.from({ length: cores }, () => new Worker(source, { eval: true, workerData: MEGABYTES / cores }));
  const answers = () => Promise.all(workers.map((worker) => new Promise((resolve) => worker.once('message', resolve))));
  await answers();
  const rates: number[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    const start = performance.now();
    const done = answers();
    for (const worker of workers) worker.postMessage(0);
    await done;
    rates.push((2 * MEGABYTES * 2 ** 20) / (performance.now() - start) / 1e6);
  }
  await Promise.all(workers.map((worker) => worker.terminate()));
  const limit = rates.sort((a, b) => a - b)[ROUNDS >> 1]!;
  console.log(`\nread limit of this machine: ${limit.toFixed(1)} GB/s`);
  return limit;
}
