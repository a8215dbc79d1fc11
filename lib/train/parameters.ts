import type { Checkpoint } from '../checkpoint/checkpoint.js';
import type { ModelConfig } from '../checkpoint/config.js';
import type { TensorToWrite } from '../checkpoint/safetensors-write.js';
import { TensorLoader, type ModelWeights } from '../model/weights.js';
import * as ops from '../ops.js';
import { type Device, floatsToBf16, type Tensor } from '../ops.js';
import { hash, normals, uniform } from '../random.js';
import { Layout, type Part } from './layout.js';

/** Standard deviation of weights that are drawn. */
const DEVIATION = 0.02;
/** The predictor's last bias to begin with: its gates start open, at sigmoid(5) = 0.993. */
const OPEN = 5;
/** Elements that are made or moved at a time. */
const PIECE = 1 << 20;

/**
 * The weights of a model in training and their gradients: f32, each as one vector in the order of a {@link Layout}.
 * On a GPU the matrix products read a copy in bf16.
 */
export class Parameters implements Disposable {
  readonly device: Device;
  readonly config: ModelConfig;
  readonly layout: Layout;
  readonly values: Tensor; //       [size]
  readonly gradients: Tensor; //    [size]
  readonly copies: Tensor | null; // [size] bf16; null where products read the f32 weights
  /** What the forward pass reads. */
  readonly weights: ModelWeights;
  /** Its gradients. */
  readonly gradientsOf: ModelWeights;

  private constructor(device: Device, config: ModelConfig) {
    this.device = device;
    this.config = config;
    this.layout = new Layout(config);
    this.values = device.tensor('f32', [this.layout.size]);
    this.gradients = device.tensor('f32', [this.layout.size]);
    this.copies = device.precision === 'bf16' ? device.tensor('bf16', [this.layout.size]) : null;
    this.weights = this.layout.cut(this.copies ?? this.values, this.values);
    this.gradientsOf = this.layout.cut(this.gradients, this.gradients);
  }

  /**
   * Random weights: normal with deviation 0.02, for the outputs of attention and MLP divided by sqrt(2 · layers);
   * norms 1, biases 0, gates open.
   */
  static async random(device: Device, config: ModelConfig, seed: number): Promise<Parameters> {
    const parameters = new Parameters(device, config);
    for (const part of parameters.layout.parts) await parameters.#draw(part, seed);
    await parameters.#ready();
    return parameters;
  }

  /**
   * The weights of a checkpoint. `config` may add an "spkv" part to that of a dense checkpoint: the predictors are
   * then drawn, as {@link random} does. Errors: FILE, UNSUPPORTED, OUT_OF_MEMORY.
   */
  static async load(checkpoint: Checkpoint, device: Device, config: ModelConfig, seed: number): Promise<Parameters> {
    const parameters = new Parameters(device, config);
    const loader = new TensorLoader(checkpoint, device);
    const drawn = checkpoint.config.spkv === undefined;
    for (const part of parameters.layout.parts) {
      if (part.group === 'constant') continue;
      if (part.group === 'predictor' && drawn) await parameters.#draw(part, seed);
      else ops.copy(parameters.layout.part(parameters.values, part.name), await loader.load(part));
    }
    await parameters.#ready();
    return parameters;
  }

  /** Elements that are trained. */
  get count(): number {
    return this.layout.parts.reduce((sum, { shape, group }) => sum + (group === 'constant' ? 0 : product(shape)), 0);
  }

  /** The weights as a checkpoint holds them, each read from the device when its turn comes. */
  tensors(dtype: 'F32' | 'BF16'): TensorToWrite[] {
    return this.layout.parts
      .filter(({ group }) => group !== 'constant')
      .map(({ name, shape }) => ({
        name, dtype, shape,
        data: async () => {
          const values = await this.layout.part(this.values, name).readFloats();
          return dtype === 'F32' ? values : floatsToBf16(values);
        },
      }));
  }

  /** One gradient by its name in the checkpoint: of the sum of the losses that were accumulated. */
  async gradient(name: string): Promise<Float32Array> {
    return this.layout.part(this.gradients, name).readFloats();
  }

  /** A number that is the same where all weights are. */
  async checksum(): Promise<number> {
    using sum = this.device.tensor('f32', [1]);
    using row = this.values.view([1, this.values.size], [this.values.size, 1], 0);
    ops.squaredNorm(sum, row);
    return (await sum.readFloats())[0]!;
  }

  /** Brings the copies up to date after the values were written from outside. */
  refresh(): void {
    if (this.copies) ops.copy(this.copies, this.values);
  }

  async #ready(): Promise<void> {
    this.refresh();
    await this.device.synchronize();
  }

  /** Fills a part with its first values. What is drawn depends on the seed and the part's name alone. */
  async #draw({ name, shape, offset, group }: Part, seed: number): Promise<void> {
    if (group === 'constant' || (name.endsWith('.bias') && !name.endsWith('fc2.bias'))) return;
    const size = product(shape);
    const next = uniform(hash(name) ^ seed);
    const deviation = /\b(o_proj|down_proj)\.weight$/.test(name) ? DEVIATION / Math.sqrt(2 * this.config.layers) : DEVIATION;
    for (let start = 0; start < size; start += PIECE) {
      const count = Math.min(PIECE, size - start);
      const values =
        name.endsWith('fc2.bias') ? new Float32Array(count).fill(OPEN)
        : shape.length === 1 ? new Float32Array(count).fill(1)
        : normals(count, next, deviation);
      this.values.slice(0, offset + start, offset + start + count).write(values);
      await this.device.synchronize();
    }
  }

  dispose(): void {
    this.values.dispose();
    this.gradients.dispose();
    this.copies?.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

function product(shape: readonly number[]): number {
  return shape.reduce((size, extent) => size * extent, 1);
}
