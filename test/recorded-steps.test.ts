// A step that is captured once and launched for other sequences each time: what differs between launches lies in tensors.
import { attention, insert, type Tensor } from '../lib/ops.js';
import { Harness, type Member, type StepData } from './support/cache-harness.js';
import { random, testDevice } from './support/device.js';
import { expectError } from './support/errors.js';

const SHAPE = { layers: 2, kvHeads: 2, group: 2, headDim: 64, window: 16, slack: 8, dtype: 'bf16' } as const;
const BATCH = 3;
const DENSITIES = [1, 0.25, 0.5, -1];
const uniform = random(11);
const below = (n: number) => Math.floor(uniform() * n);

/** What a step of the graph reads and writes. */
interface Operands {
  q: Tensor;
  keys: Tensor;
  values: Tensor;
  utilities: Tensor;
  outs: Tensor[];
}

/** Steps of the same rows after each other, in one graph. */
class Recorded {
  readonly harness: Harness;
  readonly #slots: Tensor;
  readonly #steps: Operands[];
  readonly #launch: () => void;

  constructor(harness: Harness, steps: number) {
    const { device, cache, shape: { layers: L, kvHeads: G, group, headDim: D }, scale } = harness;
    this.harness = harness;
    this.#slots = device.tensor('i32', [BATCH]);
    const offsets = device.from(Int32Array.from({ length: BATCH + 1 }, (_, b) => b));
    const f32 = (...shape: number[]) => device.tensor('f32', shape);
    this.#steps = Array.from({ length: steps }, () => ({
      q: f32(L, BATCH, G * group, D), keys: f32(L, BATCH, G, D), values: f32(L, BATCH, G, D), utilities: f32(L, BATCH, G),
      outs: Array.from({ length: L }, () => f32(BATCH, G * group, D)),
    }));
    const graph = device.capture(() => {
      for (const { q, keys, values, utilities, outs } of this.#steps) {
        outs.forEach((out, layer) => attention(out, q.at(layer), keys.at(layer), values.at(layer), utilities.at(layer), cache, layer, this.#slots, offsets, scale));
        insert(cache, keys, values, utilities, this.#slots, offsets, null);
      }
    });
    this.#launch = () => graph.launch();
  }

  /** Launches for these sequences; what comes of it is compared with the reference. */
  async run(members: readonly Member[]): Promise<void> {
    const data = this.#steps.map((step) => this.#write(step, members));
    this.#slots.write(Int32Array.from(members, ({ sequence }) => sequence.slot));
    this.#launch();
    const outs = await Promise.all(this.#steps.map((step) => Promise.all(step.outs.map((out) => out.readFloats()))));
    for (const [i, step] of data.entries()) {
      this.harness.check(step, outs[i]!, 12);
      this.harness.advance(step);
    }
  }

  #write({ q, keys, values, utilities, outs }: Operands, members: readonly Member[]): StepData {
    const data = this.harness.data(members, members.map(() => 1), DENSITIES);
    q.write(data.q);
    keys.write(data.keys);
    values.write(data.values);
    utilities.write(data.utilities!);
    for (const out of outs) out.write(new Float32Array(out.size).fill(NaN));
    return data;
  }

  /** Launches for what may be no sequences. */
  async launch(slots: number[]): Promise<void> {
    this.#slots.write(Int32Array.from(slots));
    this.#launch();
    await this.harness.device.synchronize();
  }
}

/** A cache with sequences, and a graph of steps over it. */
async function prepare(steps: number, sequences: number): Promise<{ harness: Harness; recorded: Recorded; members: Member[] }> {
  const harness = new Harness(testDevice(), SHAPE, uniform);
  const recorded = new Recorded(harness, steps);
  const members = await Promise.all(Array.from({ length: sequences }, () => harness.create()));
  return { harness, recorded, members };
}

/** Some of them, in any order. */
function choose(members: readonly Member[]): Member[] {
  const left = [...members];
  return Array.from({ length: BATCH }, () => left.splice(below(left.length), 1)[0]!);
}

async function expectKept({ cache, shape }: Harness, members: readonly Member[]): Promise<void> {
  for (const { sequence, reference } of members) {
    const { length, kept } = await sequence.stats();
    expect({ length, kept: [...kept] }).toEqual({ length: reference.length, kept: reference.kept(shape.window) });
  }
  expect(cache.capacityPages).toBe(4000);
}

describe.each([1, 2])('%i steps in a graph', (steps) => {
  test('are for the sequences that the slots name at each launch', async () => {
    const { harness, recorded, members } = await prepare(steps, 6);
    for (let i = 0; i < 30; i++) await recorded.run(choose(members));
    await expectKept(harness, members);
  });

  test('find room for lists of any length', async () => {
    const { harness, recorded, members } = await prepare(steps, 4);
    for (let i = 0; i < 3; i++) await recorded.run(choose(members));
    await harness.step(members, [700, 20, 300, 64], DENSITIES);
    for (let i = 0; i < 10; i++) await recorded.run(choose(members));
    for (let i = 0; i < 80; i++) await recorded.run(members.slice(0, BATCH));
    await expectKept(harness, members);
  });

  test('take sequences that come, go, and share pages', async () => {
    const { harness, recorded, members } = await prepare(steps, 5);
    await harness.step(members, [200, 3, 90, 130, 1], DENSITIES);
    for (let i = 0; i < 24; i++) {
      const at = below(members.length);
      const { sequence, reference } = members[at]!;
      if (i % 3 === 0) {
        members.push({ sequence: await sequence.fork(), reference: reference.fork() });
      } else if (i % 3 === 1 && members.length > 4) {
        members.splice(at, 1);
        await sequence.dispose();
      }
      await recorded.run(choose(members));
      await recorded.run(choose(members));
    }
    await expectKept(harness, members);
  });

  test('refuse sequences that are gone or named twice, and go on', async () => {
    const { harness, recorded, members } = await prepare(steps, 5);
    for (let i = 0; i < 3; i++) await recorded.run(choose(members));
    const gone = members.pop()!.sequence;
    const { slot } = gone;
    await gone.dispose();
    const [a, b] = members.map(({ sequence }) => sequence.slot);
    await expectError(() => recorded.launch([a!, slot, b!]), 'DISPOSED');
    await expectError(() => recorded.launch([a!, b!, a!]), 'INVALID_ARGUMENT');
    await expectError(() => recorded.launch([a!, 1_000_000, b!]), 'DISPOSED');
    for (let i = 0; i < 3; i++) await recorded.run(choose(members));
    await expectKept(harness, members);
  });
});
