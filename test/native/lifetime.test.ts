// Beginnings and ends: threads, processes, garbage, leaks. Each scenario is a process of its own, since its crash is
// what the test is about; see test/support/scenarios.ts.
import { runScenario } from '../support/scenario-process.js';

const MIB = 2 ** 20;
const NONE = { tensors: 0, bytes: 0, caches: 0 };

const run = (scenario: string) => runScenario('scenarios.ts', [scenario]);

async function succeed<T>(scenario: string): Promise<T> {
  const { code, signal, errors, result } = await run(scenario);
  expect({ code, signal, errors }).toEqual({ code: 0, signal: null, errors: '' });
  return result as T;
}

describe('threads', () => {
  test('two workers and the main thread compute at once, and the same', async () => {
    const result = await succeed('threads');
    expect(result).toEqual({ same: true, workers: 2 });
  });

  test('ten workers terminated in the middle of their work leave the process well and nothing behind', async () => {
    const result = await succeed('terminate');
    expect(result).toEqual({ works: true, live: NONE, moreThreads: 0 });
  });

  test('workers that end with handles open leave nothing behind', async () => {
    const result = await succeed('workerEnd');
    expect(result).toEqual({ live: NONE, moreThreads: 0 });
  });

  test('devices that come and go leave no threads behind', async () => {
    const result = await succeed('devices');
    expect(result).toEqual({ moreThreads: 0 });
  });
});

describe('the end of the process', () => {
  // The work that is pending would take an hour: its end is not awaited.
  test.each(['exit', 'abandon'])('comes with work pending: %s', (scenario) => succeed(scenario));

  test('waits for what is awaited', async () => {
    const result = await succeed('wait');
    expect(result).toEqual({ elements: 512 * 512 });
  });
});

describe('memory', () => {
  test('handles that nobody disposed are freed by the garbage collector', async () => {
    const result = await succeed<Record<'before' | 'during' | 'after', typeof NONE & { rss: number }>>('collect');
    expect(result.during).toMatchObject({ tensors: 400, bytes: 400 * MIB, caches: 1 });
    expect(result.after).toMatchObject(NONE);
    expect(result.during.rss - result.before.rss).toBeGreaterThan(300 * MIB);
    expect(result.after.rss - result.before.rss).toBeLessThan(100 * MIB);
  });

  test('the garbage collector knows how much the handles hold', async () => {
    const result = await succeed<{ most: number }>('pressure');
    expect(result.most).toBeLessThan(800 * MIB); // of 1600 that were allocated
  });

  test('ten thousand sequences, stepped, forked and freed, leave nothing behind', async () => {
    interface State {
      live: typeof NONE;
      pool: { usedPages: number; sequences: number; peakPages: number };
      rss: number;
    }
    const result = await succeed<Record<'start' | 'end', State>>('leak');
    expect(result.end.live).toEqual(result.start.live);
    expect(result.end.pool).toEqual(result.start.pool);
    expect(result.end.pool).toMatchObject({ usedPages: 0, sequences: 0 });
    expect(result.end.rss - result.start.rss).toBeLessThan(35 * MIB); // one page is 8 KiB: 9000 would be 70 MiB
  });
});
