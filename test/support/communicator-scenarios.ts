// What communicators do, in a process of its own, since the library of NCCL is chosen by the environment. Runs the scenario
// that is named on the command line, and writes what came of it as JSON.
import * as ops from '../../lib/ops.js';

const N = 40_000; // more than the stand-in exchanges at a time

interface Rank {
  device: ops.Device;
  communicator: ops.Communicator;
}

function open(size: number, count = size): Rank[] {
  const devices = Array.from({ length: count }, (_, i) => ops.openDevice(`cuda:${i}`));
  const id = devices[0]!.communicatorId();
  return devices.map((device, rank) => ({ device, communicator: device.communicator(id, rank, size) }));
}

async function failure(work: Promise<unknown>): Promise<unknown> {
  try {
    return { value: await work };
  } catch (error) {
    const { code, message } = error as ops.SpkvError;
    return { code, message };
  }
}

const SCENARIOS: Record<string, () => Promise<unknown>> = {
  /** The largest difference from the sum, over two ranks and three tensors each, and that what is not summed stays. */
  async sums() {
    const ranks = open(2);
    await Promise.all(ranks.map(({ communicator }) => communicator.connect()));
    const inputs = ranks.map(({ device }, rank) => [0, 1, 2].map((n) => device.from(Float32Array.from({ length: N }, (_, i) => (rank + 1) * (i + n)))));
    let worst = 0;
    for (const [rank, { communicator }] of ranks.entries()) {
      for (const x of inputs[rank]!) ops.allReduce(communicator, x.slice(0, 0, N - 1));
      communicator.join();
    }
    for (const own of inputs) {
      for (const [n, x] of own.entries()) {
        const values = await x.readFloats();
        for (let i = 0; i < N - 1; i++) worst = Math.max(worst, Math.abs(values[i]! - 3 * (i + n)));
      }
    }
    const last = await Promise.all(inputs.map(async ([x]) => (await x!.readFloats())[N - 1]));
    await Promise.all(ranks.map(({ communicator }) => communicator.dispose()));
    return { worst, last, afterwards: await failure((async () => ranks[0]!.communicator.join())()) };
  },

  async alone() {
    const [{ device, communicator }] = open(1) as [Rank];
    const early = device.from(Float32Array.of(1));
    ops.allReduce(communicator, early);
    const before = await failure(early.read());
    await communicator.connect();
    const x = device.from(Float32Array.of(1, 2, 3));
    ops.allReduce(communicator, x);
    communicator.join();
    communicator.check();
    const values = Array.from(await x.readFloats());
    await communicator.dispose();
    return { before, values };
  },

  /** The second rank never comes; then one comes but takes no part in a sum. */
  async missing() {
    const [first] = open(2, 1) as [Rank];
    const waiting = failure(first.communicator.connect());
    setTimeout(() => first.communicator.abort(), 100);
    const connected = await waiting;
    await first.communicator.dispose();
    const ranks = open(2);
    await Promise.all(ranks.map(({ communicator }) => communicator.connect()));
    const [{ device, communicator }] = ranks as [Rank, Rank];
    const x = device.from(new Float32Array(N));
    ops.allReduce(communicator, x);
    communicator.join();
    const summed = failure(x.read());
    setTimeout(() => communicator.abort(), 100);
    const sum = await summed;
    await communicator.dispose();
    return { connected, sum };
  },

  async failing() {
    const ranks = open(2);
    await Promise.all(ranks.map(({ communicator }) => communicator.connect()));
    const results: unknown[] = [];
    for (let i = 0; i < 2; i++) {
      const tensors = ranks.map(({ device, communicator }) => {
        const x = device.from(new Float32Array(N).fill(1));
        ops.allReduce(communicator, x);
        communicator.join();
        return x;
      });
      results.push(await Promise.all(tensors.map((x) => failure((async () => (await x.readFloats())[0])()))));
    }
    return results;
  },

  async arguments() {
    const device = ops.openDevice('cuda:0');
    const id = device.communicatorId();
    const communicator = device.communicator(id, 0, 1);
    const cpu = ops.openDevice('cpu', { threads: 1 });
    const attempt = (work: () => unknown) => failure((async () => work())());
    return Promise.all([
      attempt(() => device.communicator(id.subarray(1), 0, 1)),
      attempt(() => device.communicator(id, 1, 1)),
      attempt(() => ops.allReduce(device as never, device.tensor('f32', [1]))),
      attempt(() => ops.allReduce(communicator, device.tensor('i32', [1]))),
      attempt(() => ops.allReduce(communicator, device.tensor('f32', [1, 1]))),
      attempt(() => ops.allReduce(communicator, cpu.tensor('f32', [1]))),
      attempt(() => device.capture(() => ops.allReduce(communicator, device.tensor('f32', [1])))),
      attempt(() => cpu.communicatorId()),
    ]);
  },

  async opening() {
    return failure((async () => ops.openDevice('cuda:0').communicatorId())());
  },
};

console.log(JSON.stringify(await SCENARIOS[process.argv[2]!]!()));
