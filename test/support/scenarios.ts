// What can only be seen from outside of a process: run by test/native/lifetime.test.ts as
// `node --expose-gc --import tsx scenarios.ts <name>`. Each scenario prints one line of JSON.
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { liveAllocations, openDevice } from '../../lib/ops.js';
import * as ops from '../../lib/ops.js';
import { begun, keepBusy, multiply } from './busy.js';
import { normals, random } from './device.js';
import { Stepper } from './step.js';

const MIB = 2 ** 20;
const GEOMETRY = { layers: 2, kvHeads: 2, headDim: 16, window: 5, slack: 3, capacityPages: 64 };

/** A hash of a chain of operations that two threads of the pool share; the same wherever it runs. */
async function compute(rounds: number): Promise<string> {
  using device = openDevice('cpu', { threads: 2, pin: false });
  using cache = device.createCache(GEOMETRY);
  const stepper = new Stepper(device, cache, GEOMETRY, 4);
  const weight = ops.packWeight(device.from(normals(256 * 256, random(1), 0.05), [256, 256]));
  let x = device.from(normals(32 * 256, random(2)), [32, 256]);
  const hash = createHash('sha256');
  for (let round = 0; round < rounds; round++) {
    const next = device.tensor('f32', [32, 256]);
    const sequence = await cache.createSequence();
    for (let i = 0; i < 8; i++) ops.matmul(next, x, weight);
    stepper.step(sequence);
    hash.update(await next.read()).update((await sequence.stats()).kept);
    const fork = await sequence.fork();
    await sequence.dispose();
    hash.update((await fork.save()).subarray(0, -32));
    await fork.dispose();
    x.dispose();
    x = next;
  }
  return hash.digest('hex');
}

/** A worker that plays a role; Node 20 does not pass --import on to workers. */
const worker = (role: string): Worker =>
  new Worker(`import('tsx/esm/api').then(({ register }) => { register(); return import('${import.meta.url}'); })`, {
    eval: true,
    workerData: role,
  });

function answer(of: Worker): Promise<unknown> {
  return new Promise((resolve, reject) => {
    of.once('message', resolve);
    of.once('error', reject);
    of.once('exit', (code) => reject(new Error(`The worker ended with ${code}`)));
  });
}

/** Threads of this process, 0 where the system does not tell. */
function threadCount(): number {
  if (process.platform !== 'linux') return 0;
  return Number(/^Threads:\s*(\d+)/m.exec(readFileSync('/proc/self/status', 'utf8'))![1]);
}

/** Collects garbage until `done`, and once at least; what never is shows in what the scenario tells. */
async function collectUntil(done: () => boolean): Promise<void> {
  for (let i = 0; i < 3000; i++) {
    globalThis.gc!();
    await turn();
    await sleep(i < 10 ? 0 : 10);
    if (done()) return;
  }
}

const rss = () => process.memoryUsage().rss;

const scenarios: Record<string, () => Promise<unknown>> = {
  /** Two workers and the main thread use the addon at once. */
  async threads() {
    const workers = [worker('compute'), worker('compute')];
    const results = await Promise.all([...workers.map(answer), compute(100)]);
    await Promise.all(workers.map((one) => one.terminate()));
    return { same: new Set(results).size === 1, workers: results.length - 1 };
  },

  /** Workers are terminated while they have work enqueued and promises pending. */
  async terminate() {
    const before = threadCount();
    for (let i = 0; i < 10; i++) {
      const busy = worker(i % 2 ? 'busy' : 'flood');
      await answer(busy);
      await sleep(i * 3);
      await busy.terminate();
    }
    const works = (await compute(3)).length === 64;
    await collectUntil(() => liveAllocations().tensors === 0 && threadCount() <= before);
    return { works, live: liveAllocations(), moreThreads: threadCount() - before };
  },

  /** A worker that ends by itself, with its handles not disposed. */
  async workerEnd() {
    const before = threadCount();
    for (let i = 0; i < 5; i++) {
      const leaving = worker('leave');
      const code = await new Promise((resolve) => leaving.once('exit', resolve));
      if (code !== 0) throw new Error(`The worker ended with ${String(code)}`);
    }
    await collectUntil(() => liveAllocations().tensors === 0 && threadCount() <= before);
    return { live: liveAllocations(), moreThreads: threadCount() - before };
  },

  /** process.exit in the middle of work that is awaited. */
  async exit() {
    const device = openDevice('cpu', { threads: 2 });
    const before = device.busyNanoseconds;
    const out = keepBusy(device);
    void out.read();
    const controller = new AbortController();
    void device.submit(() => out.read(), controller.signal);
    await begun(device, before);
    process.exit(0);
  },

  /** Work that nobody waits for does not keep the process alive. */
  async abandon() {
    const device = openDevice('cpu', { threads: 2 });
    const before = device.busyNanoseconds;
    keepBusy(device);
    await begun(device, before);
  },

  /** What is awaited keeps the process alive until it is there. */
  async wait() {
    const device = openDevice('cpu', { threads: 2 });
    const out = multiply(device, 80);
    void out.read().then((data) => console.log(JSON.stringify({ elements: data.length })));
    return undefined;
  },

  /** Handles that nobody disposed are freed by the garbage collector. */
  async collect() {
    const now = () => ({ ...liveAllocations(), rss: rss() });
    const before = now();
    const during = await (async () => {
      const device = openDevice('cpu', { threads: 1 });
      const tensors = Array.from({ length: 400 }, () => device.tensor('f32', [1 << 18]));
      const cache = device.createCache(GEOMETRY);
      await cache.createSequence();
      device.capture(() => ops.copy(tensors[0]!, tensors[1]!));
      await tensors[399]!.read();
      return now();
    })();
    // The thread of a device frees what it has a little later.
    await collectUntil(() => now().tensors === 0 && now().caches === 0 && rss() - before.rss < 50 * MIB);
    return { before, during, after: now() };
  },

  /** The collector runs early enough by itself, since it knows the size of what the handles hold. */
  async pressure() {
    const device = openDevice('cpu', { threads: 1 });
    let most = 0;
    for (let i = 0; i < 400; i++) {
      device.tensor('f32', [1 << 20]);
      most = Math.max(most, liveAllocations().bytes);
      await turn();
    }
    return { most };
  },

  /** Ten thousand sequences, each stepped, forked, and freed. */
  async leak() {
    const device = openDevice('cpu', { threads: 2, pin: false });
    const cache = device.createCache(GEOMETRY);
    const stepper = new Stepper(device, cache, GEOMETRY, 4);
    const round = async (count: number) => {
      for (let i = 0; i < count; i++) {
        const sequence = await cache.createSequence({ threshold: (i % 10) / 10 });
        stepper.step(sequence);
        stepper.step(sequence);
        const fork = await sequence.fork();
        stepper.step(fork);
        await sequence.dispose();
        await fork.rewind(2);
        await fork.dispose();
      }
    };
    const state = async () => ({ live: liveAllocations(), pool: await cache.stats(), rss: rss() });
    await round(1000);
    await collectUntil(() => true);
    const start = await state();
    await round(9000);
    await collectUntil(() => rss() - start.rss < 16 * MIB);
    return { start, end: await state() };
  },

  /** Devices come and go without leaving threads behind. */
  async devices() {
    const before = threadCount();
    for (let i = 0; i < 50; i++) {
      using device = openDevice('cpu', { threads: 3, pin: false });
      using tensor = device.from(Float32Array.of(i));
      if ((await tensor.read())[0] !== i) throw new Error('wrong');
    }
    await collectUntil(() => threadCount() <= before);
    return { moreThreads: threadCount() - before };
  },
};

/** What the workers of the scenarios do. */
const roles: Record<string, () => Promise<void>> = {
  async compute() {
    parentPort!.postMessage(await compute(100));
  },
  async busy() {
    const device = openDevice('cpu', { threads: 2, pin: false });
    const out = keepBusy(device);
    const pending = [out.read(), device.synchronize(), device.submit(() => out.read())];
    parentPort!.postMessage('ready');
    await Promise.all(pending);
  },
  async flood() {
    const device = openDevice('cpu', { threads: 2, pin: false });
    const cache = device.createCache(GEOMETRY);
    const stepper = new Stepper(device, cache, GEOMETRY, 4);
    parentPort!.postMessage('ready');
    for (;;) {
      const sequence = await cache.createSequence();
      for (let i = 0; i < 4; i++) stepper.step(sequence);
      await Promise.all([sequence.stats(), sequence.save(), device.synchronize(), cache.stats()]);
      await sequence.dispose();
    }
  },
  async leave() {
    const device = openDevice('cpu', { threads: 2, pin: false });
    const cache = device.createCache(GEOMETRY);
    await cache.createSequence();
    const out = keepBusy(device);
    device.capture(() => ops.copy(out, out));
  },
};

if (isMainThread) {
  const result = await scenarios[process.argv[2]!]!();
  if (result !== undefined) console.log(JSON.stringify(result));
} else {
  await roles[workerData as string]!();
}
