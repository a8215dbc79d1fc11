// Beginnings and ends of exported models that can only be seen from outside of a process: run by
// test/onnxruntime/lifetime.test.ts as `node --expose-gc --import tsx onnx-scenarios.ts <scenario> <dir> <route>`.
// Each scenario prints one line of JSON.
import { readdirSync, readFileSync } from 'node:fs';
import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { loadModel, type Route } from '../../lib/onnxruntime/index.js';
import { liveAllocations } from '../../lib/ops.js';

const [scenario, dir, route] = (isMainThread ? process.argv.slice(2) : workerData) as [string, string, Route];
/** The weights of fifteen models, in bytes. */
const LEAK = 360 * 2 ** 20;
const PROMPT = Array.from({ length: 400 }, (_, i) => (i * 7) % 256);

const open = () => loadModel(dir, { route, threads: 2, pin: false, kvMemory: 1 << 26 });

/** Generates for ever; resolves when it has begun. */
async function begin(): Promise<void> {
  const model = await open();
  const pieces = model.generate(PROMPT, { maxTokens: 3000, ignoreEos: true })[Symbol.asyncIterator]();
  await pieces.next();
  void (async () => {
    while (!(await pieces.next()).done);
  })();
}

/** The processes of parts that this one has started (Linux). */
function children(): number[] {
  if (process.platform !== 'linux') return [];
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        const parent = Number(/\) \S (\d+)/.exec(readFileSync(`/proc/${pid}/stat`, 'utf8'))?.[1]);
        return parent === process.pid && readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('parts-process');
      } catch {
        return false; // it has just ended
      }
    })
    .map(Number);
}

/** Collects garbage until `done`, and once at least; what never is shows in what the scenario tells. */
async function until(done: () => boolean): Promise<boolean> {
  for (let i = 0; i < 3000; i++) {
    globalThis.gc!();
    await turn();
    await sleep(i < 10 ? 0 : 10);
    if (done()) return true;
  }
  return false;
}

const descriptors = () => (process.platform === 'linux' ? readdirSync('/proc/self/fd').length : 0);

const scenarios: Record<string, () => Promise<unknown>> = {
  /** Workers are terminated while onnxruntime runs for them. */
  async terminate() {
    for (let i = 0; i < 4; i++) {
      const busy = new Worker(`import('tsx/esm/api').then(({ register }) => { register(); return import('${import.meta.url}'); })`, {
        eval: true, workerData: ['begin', dir, route],
      });
      await new Promise((resolve, reject) => busy.once('message', resolve).once('error', reject));
      await sleep(i * 3);
      await busy.terminate();
    }
    const model = await open();
    const works = (await model.generate(PROMPT, { maxTokens: 3, ignoreEos: true }).text()).length > 0;
    model.dispose();
    const ended = await until(() => children().length === 0 && liveAllocations().tensors === 0);
    return { works, ended };
  },

  async exit() {
    await begin();
    console.log(JSON.stringify({ children: children() }));
    process.exit(0);
  },

  /** An error that nobody catches ends the process as it ends others. */
  async crash() {
    await begin();
    console.log(JSON.stringify({ children: children() }));
    setImmediate(() => {
      throw new Error('nobody catches this');
    });
  },

  /** A model that is open does not keep the process alive. */
  async abandon() {
    await open();
    return { children: children() };
  },

  /** Models that come and go leave nothing behind. */
  async leak() {
    const state = () => ({ live: liveAllocations(), children: children(), descriptors: descriptors(), rss: process.memoryUsage().rss });
    const round = async (count: number, before?: ReturnType<typeof state>) => {
      for (let i = 0; i < count; i++) {
        const model = await open();
        await model.generate(PROMPT, { maxTokens: 3, ignoreEos: true }).text();
        model.dispose();
        await until(() => liveAllocations().tensors === 0 && children().length === 0);
      }
      // The threads of a device, and the pipes of a process, are gone a little later.
      await until(() => !before || (descriptors() <= before.descriptors && process.memoryUsage().rss < before.rss + LEAK / 4));
      return state();
    };
    // What memory and caches grow to at first is no leak.
    const [first, more] = route === 'graph' ? ([5, 15] as const) : ([2, 5] as const);
    const start = await round(first);
    return { start, end: await round(more, start) };
  },

  /** The process that runs the parts is killed. */
  async kill() {
    const model = await open();
    const sequence = await model.createSequence();
    await model.prefill(sequence, PROMPT);
    for (const pid of children()) process.kill(pid, 'SIGKILL');
    const codes: string[] = [];
    for (let i = 0; i < 2; i++) {
      await model.step([{ sequence, ids: [1] }]).then(
        () => codes.push('none'),
        (error: { code: string }) => codes.push(error.code),
      );
    }
    const { length } = await sequence.stats();
    model.dispose();
    return { codes, length };
  },
};

if (isMainThread) {
  const result = await scenarios[scenario]!();
  if (result !== undefined) console.log(JSON.stringify(result));
} else {
  await begin();
  parentPort!.postMessage('begun');
}
