// Runs steps on a cache and on the reference side by side.
import { attention, type CacheDType, type Device, insert, type KvCache, positions, type Sequence, type SequenceStats, type Tensor } from '../../lib/ops.js';
import { Poisoned } from './operands.js';
import { type Pair, ReferenceSequence, stored } from './reference-attention.js';

export interface Shape {
  layers: number;
  kvHeads: number;
  /** Query heads per KV head. */
  group: number;
  headDim: number;
  window: number;
  slack: number;
  dtype: CacheDType;
  capacityPages?: number;
}

/** How a list's utilities are drawn: the probability to be kept; below 0, exactly one pair. */
export type Densities = readonly number[];

export interface Member {
  sequence: Sequence;
  reference: ReferenceSequence;
}

export interface StepData {
  members: readonly Member[];
  offsets: Int32Array;
  tokens: number;
  /** [L, T, H, D] */
  q: Float32Array;
  /** [L, T, G, D] */
  keys: Float32Array;
  values: Float32Array;
  /** [L, T, G], null: everything is kept */
  utilities: Float32Array | null;
}

export class Harness {
  readonly device: Device;
  readonly shape: Shape;
  readonly cache: KvCache;
  readonly scale: number;
  /** In what attention multiplies: a GPU takes queries and weights to a bf16 cache as bf16, if it has kernels for its shape. */
  readonly #multiplied: 'f32' | 'bf16';
  readonly #uniform: () => number;

  constructor(device: Device, shape: Shape, uniform: () => number) {
    this.device = device;
    this.shape = shape;
    this.#uniform = uniform;
    this.scale = 1 / Math.sqrt(shape.headDim);
    this.#multiplied = device.precision === 'bf16' && shape.dtype !== 'f32' ? 'bf16' : 'f32';
    const { layers, kvHeads, headDim, window, slack, dtype, capacityPages = 4000 } = shape;
    this.cache = device.createCache({ layers, kvHeads, headDim, window, slack, dtype, capacityPages });
  }

  get lists(): number {
    return this.shape.layers * this.shape.kvHeads;
  }

  async create(threshold = 0.5): Promise<Member> {
    return { sequence: await this.cache.createSequence({ threshold }), reference: new ReferenceSequence(this.lists, threshold) };
  }

  /** Random new tokens, counts[b] for members[b]. */
  data(members: readonly Member[], counts: readonly number[], densities: Densities | null): StepData {
    const { layers: L, kvHeads: G, group, headDim: D } = this.shape;
    const offsets = new Int32Array(members.length + 1);
    counts.forEach((count, b) => (offsets[b + 1] = offsets[b]! + count));
    const T = offsets[members.length]!;
    const utility = (i: number) => {
      const density = densities![Math.floor(i / (T * G)) * G + (i % G)]!;
      const keep = density < 0 ? Math.floor((i % (T * G)) / G) === Math.floor(T / 2) : this.#uniform() < density;
      return keep ? 0.5 + this.#uniform() / 2 : this.#uniform() * 0.499;
    };
    // Where rounding to bf16 is the coarsest error, half of the steps have numbers that it leaves as they are.
    const dtype = this.#multiplied === 'bf16' && this.#uniform() < 0.5 ? 'bf16' : 'f32';
    return {
      members, offsets, tokens: T,
      q: stored(this.#numbers(L * T * G * group * D, 3), dtype),
      keys: stored(this.#numbers(L * T * G * D, 2), dtype),
      values: stored(this.#numbers(L * T * G * D, 2), dtype),
      utilities: densities && Float32Array.from({ length: L * T * G }, (_, i) => utility(i)),
    };
  }

  #numbers(count: number, most: number): Float32Array {
    const numbers = new Float32Array(count);
    for (let i = 0; i < count; i++) numbers[i] = most * (2 * this.#uniform() - 1);
    return numbers;
  }

  slots(members: readonly Member[]): Tensor {
    return this.device.from(Int32Array.from(members, (member) => member.sequence.slot));
  }

  /** The output of every layer, [L][T, H, D], written as f32 or bf16. */
  async attention(step: StepData, dtype: 'f32' | 'bf16' = 'f32'): Promise<Float32Array[]> {
    const { layers: L, kvHeads: G, group, headDim: D } = this.shape;
    const T = step.tokens;
    const tensor = (data: Float32Array, ...shape: number[]) => this.device.from(data, shape);
    const [slots, offsets] = [this.slots(step.members), this.device.from(step.offsets)];
    const q = tensor(step.q, L, T, G * group, D);
    const [keys, values] = [tensor(step.keys, L, T, G, D), tensor(step.values, L, T, G, D)];
    const utilities = step.utilities && tensor(step.utilities, L, T, G);
    const outs = Array.from({ length: L }, (_, layer) => {
      const out = new Poisoned(this.device, dtype, [T, G * group, D]).view;
      attention(out, q.at(layer), keys.at(layer), values.at(layer), utilities && utilities.at(layer), this.cache, layer, slots, offsets, this.scale);
      return out;
    });
    return Promise.all(outs.map((out) => out.readFloats()));
  }

  async positions(step: StepData): Promise<number[]> {
    const out = this.device.tensor('i32', [step.tokens]);
    positions(out, this.cache, this.slots(step.members), this.device.from(step.offsets));
    return Array.from(await out.read());
  }

  /** Inserts on the device; resolves when it is done. The reference stays as it is. */
  async insert(step: StepData, logits: Tensor | null = null): Promise<void> {
    const { layers: L, kvHeads: G, headDim: D } = this.shape;
    const T = step.tokens;
    const tensor = (data: Float32Array, ...shape: number[]) => this.device.from(data, shape);
    insert(
      this.cache, tensor(step.keys, L, T, G, D), tensor(step.values, L, T, G, D),
      step.utilities && tensor(step.utilities, L, T, G), this.slots(step.members), this.device.from(step.offsets), logits,
    );
    await this.device.synchronize();
  }

  /** The pairs that member b gets in a list. */
  pairs(step: StepData, b: number, list: number): Pair[] {
    const { kvHeads: G, headDim: D } = this.shape;
    const layer = Math.floor(list / G);
    return Array.from({ length: step.offsets[b + 1]! - step.offsets[b]! }, (_, i) => {
      const row = (layer * step.tokens + step.offsets[b]! + i) * G + (list % G);
      const [key, value] = [step.keys, step.values].map((data) => this.#seen(data.subarray(row * D, (row + 1) * D))) as [Float32Array, Float32Array];
      return { key, value, utility: step.utilities ? step.utilities[row]! : Infinity };
    });
  }

  /** A key or value as attention sees it in the step that brings it. */
  #seen(row: Float32Array): Float32Array {
    return this.shape.dtype === 'fp8' ? stored(row, 'fp8') : row;
  }

  /** Adds the step to the references, and tells the sequences of it. */
  advance(step: StepData): void {
    step.members.forEach(({ sequence, reference }, b) => {
      sequence.advance(step.offsets[b + 1]! - step.offsets[b]!);
      for (let list = 0; list < this.lists; list++) reference.append(list, this.pairs(step, b, list), this.shape.dtype);
    });
  }

  /** Compares `samples` random output rows with the reference. */
  check(step: StepData, outs: readonly Float32Array[], samples: number): void {
    const { kvHeads: G, group, headDim: D, layers: L, window } = this.shape;
    const H = G * group;
    const counted = step.members.flatMap((_, b) => (step.offsets[b + 1]! > step.offsets[b]! ? [b] : []));
    const below = (n: number) => Math.floor(this.#uniform() * n);
    for (let n = 0; n < samples && counted.length > 0; n++) {
      const [b, layer, h] = [counted[below(counted.length)]!, below(L), below(H)];
      const { reference } = step.members[b]!;
      // The last token of a step sees most; so it is always among the samples.
      const count = step.offsets[b + 1]! - step.offsets[b]!;
      const i = n === 0 ? count - 1 : below(count);
      const list = layer * G + Math.floor(h / group);
      const row = (step.offsets[b]! + i) * H + h;
      const q = step.q.subarray((layer * step.tokens * H + row) * D, (layer * step.tokens * H + row + 1) * D);
      const expected = reference.attend(q, list, this.pairs(step, b, list), reference.length + i, window, this.scale, this.#multiplied);
      for (let d = 0; d < D; d++) {
        const error = Math.abs(outs[layer]![row * D + d]! - expected.out[d]!);
        if (!(error <= expected.tolerance)) {
          throw new Error(`Sequence ${b}, layer ${layer}, head ${h}, token ${reference.length}+${i}: off by ${error}, allowed ${expected.tolerance}`);
        }
      }
    }
  }

  /** One whole step: attention, compared; insert; and the counts of kept pairs, compared. */
  async step(members: readonly Member[], counts: readonly number[], densities: Densities | null, samples = 6): Promise<void> {
    const step = this.data(members, counts, densities);
    // All in one go: waiting in between takes longer than the work.
    const answers = [this.cache.poison(), this.attention(step), this.insert(step), ...members.map(({ sequence }) => sequence.stats())] as const;
    const [, outs, , ...stats] = await Promise.all(answers);
    this.check(step, outs as Float32Array[], samples);
    this.advance(step);
    members.forEach(({ reference }, b) => {
      const { length, kept } = stats[b] as SequenceStats;
      const expected = reference.kept(this.shape.window);
      if (length !== reference.length || kept.some((count, list) => count !== expected[list])) {
        throw new Error(`Sequence ${b}: ${length} tokens with [${kept}] kept, expected ${reference.length} with [${expected}]`);
      }
    });
  }
}
