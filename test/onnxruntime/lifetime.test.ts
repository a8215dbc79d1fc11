// Whatever ends while onnxruntime runs, nothing else ends with it and nothing stays behind. Each scenario is a process of
// its own; see test/support/onnx-scenarios.ts.
import { setTimeout as sleep } from 'node:timers/promises';
import { exportOnnx } from '../../lib/onnx/index.js';
import { ROUTES, type Route } from '../../lib/onnxruntime/index.js';
import { temporaryDirectory } from '../support/files.js';
import { MODEL_DIR } from '../support/golden.js';
import { type Outcome, runScenario } from '../support/scenario-process.js';

const MIB = 2 ** 20;
const NONE = { tensors: 0, bytes: 0, caches: 0 };
const dir = temporaryDirectory();
beforeAll(() => exportOnnx(MODEL_DIR, dir));

const run = (scenario: string, route: Route) => runScenario('onnx-scenarios.ts', [scenario, dir, route]);

async function succeed(scenario: string, route: Route): Promise<Outcome> {
  const outcome = await run(scenario, route);
  expect(outcome).toMatchObject({ code: 0, signal: null, errors: '' });
  return outcome;
}

const alive = (pid: number): boolean => {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
};

/** The processes that it had started end after it. */
async function expectGone({ result }: Outcome): Promise<void> {
  const { children } = result as { children: number[] };
  for (let i = 0; i < 20_000 && children.some(alive); i++) await sleep(10);
  expect(children.filter(alive)).toEqual([]);
}

describe.each(ROUTES)('%s', (route) => {
  test('workers terminated in the middle of their work leave the process well and nothing behind', async () => {
    expect((await succeed('terminate', route)).result).toEqual({ works: true, ended: true });
  });

  test.each(['exit', 'abandon'])('the end of the process comes, and that of others with it: %s', async (scenario) => {
    await expectGone(await succeed(scenario, route));
  });

  test('an error that nobody catches ends the process as it ends others', async () => {
    const outcome = await run('crash', route);
    expect(outcome).toMatchObject({ code: 1, signal: null });
    expect(outcome.errors).toMatch('nobody catches this');
    await expectGone(outcome);
  });

  test('models that come and go leave nothing behind', async () => {
    const { start, end } = (await succeed('leak', route)).result as Record<'start' | 'end', { rss: number; descriptors: number }>;
    for (const state of [start, end]) expect(state).toMatchObject({ live: NONE, children: [] });
    expect(end.descriptors).toBeLessThanOrEqual(start.descriptors);
    expect(end.rss - start.rss).toBeLessThan(160 * MIB); // the weights of fifteen models are 360 MiB; those of parts are not here
  });
});

test('where the process of the parts has been killed, steps fail and change nothing', async () => {
  expect((await succeed('kill', 'parts')).result).toEqual({ codes: ['ONNXRUNTIME', 'ONNXRUNTIME'], length: 400 });
});
