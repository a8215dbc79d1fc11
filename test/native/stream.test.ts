// The stream of a device: submissions, their failure and cancellation, readers, graphs, and a free event loop.
import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises';
import { type Device, liveAllocations, openDevice, SpkvError, type Tensor } from '../../lib/ops.js';
import * as ops from '../../lib/ops.js';
import { begun, keepBusy, multiply } from '../support/busy.js';
import { collectGarbage, normals, random, testDevice } from '../support/device.js';
import { expectError } from '../support/errors.js';
import { expectSame, refusal } from '../support/operands.js';

const device = testDevice({ threads: 1, pin: false });
const row = (...values: number[]): Tensor => device.from(Float32Array.from(values), [1, values.length]);
const table = row(1, 2, 3);

/** Enqueues an operation that is refused while running: there is no row 7. */
function fail(on: Device = device): void {
  ops.embedding(on.tensor('f32', [1, 3]), on.from(Int32Array.of(7)), on === device ? table : on.tensor('f32', [1, 3]));
}

/** On a GPU what is enqueued behind a failure may have run: what it wrote is arbitrary, and made good here. */
function mend(tensor: Tensor, value: number): void {
  if (device.name !== 'cpu') tensor.write(Float32Array.of(value));
}

describe('submissions', () => {
  test('a failure skips the rest of its own submission and nothing else', async () => {
    const [mine, theirs] = [row(0), row(0)];
    const failing = device.submit(() => {
      fail();
      ops.add(mine, mine, row(5));
      return mine.read();
    });
    const other = device.submit(() => {
      ops.add(theirs, theirs, row(5));
      return theirs.read();
    });
    await expectError(() => failing, 'OUT_OF_RANGE', 'ids[0]');
    expect(Array.from(await other)).toEqual([5]);
    mend(mine, 0);
    expect(Array.from(await mine.read())).toEqual([0]);
  });

  test('work outside of any submission recovers once its failure was delivered', async () => {
    const out = row(0);
    fail();
    ops.add(out, out, row(1));
    const readers = [out.read(), out.read(), device.synchronize()];
    const outcomes = await Promise.allSettled(readers);
    expect(outcomes.map((outcome) => (outcome.status === 'rejected' ? (outcome.reason as SpkvError).code : 'no error'))).toEqual(Array(3).fill('OUT_OF_RANGE'));
    mend(out, 0);
    ops.add(out, out, row(1));
    expect(Array.from(await out.read())).toEqual([1]);
    fail();
    await expectError(() => device.synchronize(), 'OUT_OF_RANGE');
    await device.synchronize();
  });

  test('a failure in a submission leaves work outside of it alone', async () => {
    const out = row(0);
    const failing = device.submit(() => {
      fail();
      return device.synchronize();
    });
    ops.add(out, out, row(2));
    const read = out.read();
    await expectError(() => failing, 'OUT_OF_RANGE');
    expect(Array.from(await read)).toEqual([2]);
  });

  test('a signal cancels between two operations, with its reason, and leaves others alone', async () => {
    const controller = new AbortController();
    const reason = new Error('enough');
    const out = row(0);
    await device.synchronize();
    const before = device.busyNanoseconds;
    const cancelled = device.submit(() => {
      keepBusy(device);
      ops.add(out, out, row(1));
      return out.read();
    }, controller.signal);
    const other = device.submit(() => {
      ops.add(out, out, row(2));
      return out.read();
    });
    await begun(device, before);
    controller.abort(reason);
    await expect(cancelled).rejects.toBe(reason);
    expect(Array.from(await other)).toEqual([2]);
  });

  test('a signal that was aborted before enqueues nothing; one that is aborted afterwards changes nothing', async () => {
    const controller = new AbortController();
    let ran = false;
    const body = () => {
      ran = true;
      return row(3).read();
    };
    expect(Array.from(await device.submit(body, controller.signal))).toEqual([3]);
    controller.abort(new Error('late'));
    await device.synchronize();
    ran = false;
    await expect(device.submit(body, controller.signal)).rejects.toThrow('late');
    expect(ran).toBe(false);
  });

  test('submissions do not nest, and end when their body throws', async () => {
    await expectError(() => device.submit(() => device.submit(() => device.synchronize())), 'INVALID_ARGUMENT', 'nest');
    await expect(device.submit(() => { throw new Error('body'); })).rejects.toThrow('body');
    expect(Array.from(await device.submit(() => row(4).read()))).toEqual([4]);
  });

  test('two thousand readers are answered in order, failed and cancelled ones among them', async () => {
    const order: number[] = [];
    const counter = row(0);
    const one = row(1);
    const answers = Array.from({ length: 2000 }, (_, i) => {
      const controller = new AbortController();
      const answer = device.submit(() => {
        if (i % 7 === 3) fail();
        else ops.add(counter, counter, one);
        return counter.read();
      }, controller.signal);
      if (i % 11 === 5) controller.abort(new Error('cancelled'));
      return answer.then((value) => order.push(i) && value[0]!, (error: Error) => (error instanceof SpkvError ? error.code : error.message));
    });
    const values = await Promise.all(answers);
    const counts = values.filter((value) => typeof value === 'number');
    expect(counts.every((count, i) => i === 0 || count > counts[i - 1]!)).toBe(true);
    expect(order).toEqual(order.toSorted((a, b) => a - b));
    values.forEach((value, i) => {
      if (typeof value === 'number') expect(i % 7).not.toBe(3);
      else expect([i % 7 === 3 ? 'OUT_OF_RANGE' : '', i % 11 === 5 ? 'cancelled' : '']).toContain(value);
    });
    expect((await counter.read())[0]).toBe(counts.at(-1));
  });
});

describe('graphs', () => {
  const one = row(1);

  test('a launch computes what the calls would, bit for bit, on the contents of its time', async () => {
    const uniform = random(1);
    const [x, w, weight] = [[8, 64], [64, 64], [64]].map((shape) => device.from(normals(shape.reduce((a, b) => a * b), uniform), shape)) as [Tensor, Tensor, Tensor];
    const [normed, out] = [device.tensor('f32', [8, 64]), device.tensor('f32', [8, 64])];
    const steps = () => {
      ops.rmsNorm(normed, x, weight, 1e-5);
      ops.matmul(out, normed, w);
      ops.add(out, out, x);
    };
    const graph = device.capture(steps);
    expectSame(await out.read(), new Float32Array(8 * 64)); // recorded, not run

    for (let round = 0; round < 3; round++) {
      x.write(normals(8 * 64, uniform));
      steps();
      const direct = await out.read();
      out.write(new Float32Array(8 * 64));
      graph.launch();
      expectSame(await out.read(), direct);
      graph.launch();
      graph.launch();
      expectSame(await out.read(), direct);
    }
  });

  test('a graph keeps its tensors alive', async () => {
    const out = row(0);
    const addend = row(1);
    const graph = device.capture(() => ops.add(out, out, addend));
    addend.dispose();
    for (let i = 0; i < 5; i++) graph.launch();
    expect(Array.from(await out.read())).toEqual([5]);
  });

  test('a graph that was disposed lets go of its tensors, and is refused', async () => {
    const out = row(0);
    await collectGarbage();
    const before = liveAllocations();
    const addend = row(1);
    const graph = device.capture(() => ops.add(out, out, addend));
    addend.dispose();
    expect(liveAllocations().tensors - before.tensors).toBe(1);
    graph.launch();
    graph.dispose();
    expect(Array.from(await out.read())).toEqual([1]);
    expect(liveAllocations()).toEqual(before);
    expect(refusal(() => graph.launch())).toBe('DISPOSED');
  });

  test('reading, writing, launching and capturing are refused during a capture', async () => {
    const out = row(0);
    const graph = device.capture(() => ops.add(out, out, one));
    const refusals: string[] = [];
    const answers: Promise<unknown>[] = [];
    device.capture(() => {
      answers.push(out.read(), device.synchronize());
      refusals.push(refusal(() => out.write(Float32Array.of(1))));
      refusals.push(refusal(() => graph.launch()));
      refusals.push(refusal(() => device.capture(() => {})));
      ops.add(out, out, out);
    });
    expect(refusals).toEqual(Array(3).fill('INVALID_ARGUMENT'));
    for (const answer of answers) await expect(answer).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    expect(Array.from(await out.read())).toEqual([0]);
  });

  test('a capture ends when its body throws', async () => {
    expect(() => device.capture(() => { throw new Error('body'); })).toThrow('body');
    expect(Array.from(await row(6).read())).toEqual([6]);
  });

  test('a failure within a graph skips the rest of the launch', async () => {
    const out = row(0);
    const found = device.tensor('f32', [1, 3]);
    const ids = device.from(Int32Array.of(7));
    const graph = device.capture(() => {
      ops.add(out, out, one);
      ops.embedding(found, ids, table);
      ops.add(out, out, one);
    });
    graph.launch();
    await expectError(() => out.read(), 'OUT_OF_RANGE');
    mend(out, 1);
    expect(Array.from(await out.read())).toEqual([1]);
    ids.write(Int32Array.of(0));
    graph.launch();
    expect(Array.from(await out.read())).toEqual([3]);
  });
});

describe('the event loop', () => {
  test('stays free while a queue of products runs', async () => {
    await device.synchronize();
    const before = device.busyNanoseconds;
    const controller = new AbortController();
    let ended = false;
    const work = device.submit(() => keepBusy(device).read(), controller.signal).finally(() => (ended = true));
    work.catch(() => {});
    await begun(device, before);
    for (let i = 0; i < 100; i++) await turn();
    await sleep(1);
    expect(ended).toBe(false);
    controller.abort(new Error('enough'));
    await expect(work).rejects.toThrow('enough');
  });

  test('a device that is let go of still answers', async () => {
    const other = openDevice('cpu', { threads: 2, pin: false });
    multiply(other, 8);
    const tensor = other.from(Float32Array.of(8));
    const answer = tensor.read();
    other.dispose();
    tensor.dispose();
    expect(Array.from(await answer)).toEqual([8]);
    expect(refusal(() => other.tensor('f32', [1]))).toBe('DISPOSED');
  });
});
