import { SpkvError } from '../errors.js';
import * as ops from '../ops.js';
import type { Tensor } from '../ops.js';
import type { Group } from './layout.js';
import type { Parameters } from './parameters.js';

/** The numbers of one update. */
export interface UpdateOptions {
  learningRate: number;
  /** The predictors' learning rate as a multiple of the others'. Defaults to 5. */
  predictorScale?: number;
  /** Leaves the predictors as they are. Defaults to false. */
  frozenPredictor?: boolean;
  /** Largest norm of the gradient; a larger one is scaled down to it. Defaults to 1. */
  clip?: number;
  /** Of matrices and predictors; norms and biases do not decay. Defaults to 0.1. */
  weightDecay?: number;
  /** Defaults to 0.9, 0.95 and 1e-8. */
  beta1?: number;
  beta2?: number;
  epsilon?: number;
}

/** AdamW over all parameters, with its state: momentum and variance, f32, in the order of the parameters. */
export class Optimizer implements Disposable {
  readonly parameters: Parameters;
  readonly momentum: Tensor;
  readonly variance: Tensor;
  /** Updates done. */
  steps = 0;
  readonly #squares: Tensor; // [blocks]
  readonly #norm: Tensor; //    [1]
  readonly #factor: Tensor; //  [1]

  constructor(parameters: Parameters) {
    const { device, layout } = parameters;
    this.parameters = parameters;
    this.momentum = device.tensor('f32', [layout.size]);
    this.variance = device.tensor('f32', [layout.size]);
    this.#squares = device.tensor('f32', [layout.blocks.length]);
    this.#norm = device.tensor('f32', [1]);
    this.#factor = device.tensor('f32', [1]);
  }

  /**
   * Enqueues one update from the gradients divided by `tokens`. Resolves with their norm before clipping. Gradients that
   * are not finite change nothing: NON_FINITE, naming the step and what they belong to.
   */
  async update(tokens: number, opts: UpdateOptions): Promise<{ gradientNorm: number }> {
    const { device, layout, values, gradients, copies } = this.parameters;
    const cut = (vector: Tensor, { start, end }: { start: number; end: number }) => vector.slice(0, start, end);
    const { predictorScale = 5, frozenPredictor = false, clip = 1, weightDecay = 0.1, beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8 } = opts;
    const rate = (group: Group) => opts.learningRate * (group === 'predictor' ? predictorScale : 1);
    const [[gradientNorm], squares] = await device.submit(async () => {
      ops.fill(this.#squares, 0);
      for (const [index, block] of layout.blocks.entries()) ops.squaredNorm(this.#squares.slice(0, index, index + 1), cut(gradients, block));
      ops.clipFactor(this.#factor, this.#norm, this.#squares, 1 / tokens, clip);
      for (const segment of layout.blocks.flatMap(({ segments }) => segments)) {
        if (segment.group === 'constant' || (frozenPredictor && segment.group === 'predictor')) continue;
        ops.adamW(
          cut(values, segment), cut(this.momentum, segment), cut(this.variance, segment), copies && cut(copies, segment),
          cut(gradients, segment), this.#factor,
          {
            learningRate: rate(segment.group), weightDecay: segment.group === 'vector' ? 0 : weightDecay,
            beta1, beta2, epsilon, step: this.steps + 1,
          },
        );
      }
      return Promise.all([this.#norm.read(), this.#squares.read()]);
    });
    if (!Number.isFinite(gradientNorm)) throw this.#notFinite(squares);
    this.steps++;
    return { gradientNorm: gradientNorm! };
  }

  /** Gradients come from the last layer to the first, so the last block that is not finite is where it began. */
  #notFinite(squares: ArrayLike<number>): SpkvError {
    const index = Array.from(squares).findLastIndex((square) => !Number.isFinite(square));
    const where = index < 0 ? 'all weights together' : this.parameters.layout.blocks[index]!.name;
    return new SpkvError('NON_FINITE', `Step ${this.steps + 1}: the gradient of ${where} is not finite; the weights are as they were`);
  }

  dispose(): void {
    for (const tensor of [this.momentum, this.variance, this.#squares, this.#norm, this.#factor]) tensor.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
