import { SpkvError } from '../errors.js';
import * as ops from '../ops.js';
import type { Tensor } from '../ops.js';
import type { Group, Segment, Stack } from './layout.js';
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

/** The weights of one group at the same place of all blocks of a stack, and what is updated with them: [R, N]. */
interface Rows {
  group: Group;
  parameter: Tensor;
  momentum: Tensor;
  variance: Tensor;
  copy: Tensor | null;
  gradient: Tensor;
}

/** AdamW over all parameters, with its state: momentum and variance, f32, in the order of the parameters. */
export class Optimizer implements Disposable {
  readonly parameters: Parameters;
  readonly momentum: Tensor;
  readonly variance: Tensor;
  /** Updates done. */
  steps = 0;
  readonly #rows: readonly Rows[];
  /** For each stack its gradients, block by block, and the sums of their squares: [R, N] and [R]. */
  readonly #norms: readonly { gradient: Tensor; squares: Tensor }[];
  readonly #squares: Tensor; // [blocks]
  readonly #norm: Tensor; //    [1]
  readonly #factor: Tensor; //  [1]

  constructor(parameters: Parameters) {
    const { device, layout } = parameters;
    this.parameters = parameters;
    this.momentum = device.tensor('f32', [layout.size]);
    this.variance = device.tensor('f32', [layout.size]);
    this.#rows = layout.stacks.flatMap((stack) =>
      stack[0].segments.filter(({ group }) => group !== 'constant').map((segment) => this.#rowsOf(stack, segment)),
    );
    this.#squares = device.tensor('f32', [layout.blocks.length]);
    let block = 0;
    this.#norms = layout.stacks.map((stack) => ({
      gradient: layout.rows(parameters.gradients, stack, stack[0]),
      squares: this.#squares.slice(0, block, (block += stack.length)),
    }));
    this.#norm = device.tensor('f32', [1]);
    this.#factor = device.tensor('f32', [1]);
  }

  /**
   * Enqueues one update from the gradients divided by `tokens`. Resolves with their norm before clipping. Gradients that
   * are not finite change nothing: NON_FINITE, naming the step and what they belong to.
   */
  async update(tokens: number, opts: UpdateOptions): Promise<{ gradientNorm: number }> {
    const { predictorScale = 5, frozenPredictor = false, clip = 1, weightDecay = 0.1, beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8 } = opts;
    const [[gradientNorm], squares] = await this.parameters.device.submit(async () => {
      ops.fill(this.#squares, 0);
      for (const norm of this.#norms) ops.squaredNorm(norm.squares, norm.gradient);
      ops.clipFactor(this.#factor, this.#norm, this.#squares, 1 / tokens, clip);
      for (const { group, parameter, momentum, variance, copy, gradient } of this.#rows) {
        if (frozenPredictor && group === 'predictor') continue;
        ops.adamW(parameter, momentum, variance, copy, gradient, this.#factor, {
          learningRate: opts.learningRate * (group === 'predictor' ? predictorScale : 1), weightDecay: group === 'vector' ? 0 : weightDecay,
          beta1, beta2, epsilon, step: this.steps + 1,
        });
      }
      return Promise.all([this.#norm.read(), this.#squares.read()]);
    });
    if (!Number.isFinite(gradientNorm)) throw this.#notFinite(squares);
    this.steps++;
    return { gradientNorm: gradientNorm! };
  }

  #rowsOf(stack: Stack, segment: Segment): Rows {
    const { layout, values, copies, gradients } = this.parameters;
    const cut = (vector: Tensor) => layout.rows(vector, stack, segment);
    return {
      group: segment.group, parameter: cut(values), momentum: cut(this.momentum), variance: cut(this.variance),
      copy: copies && cut(copies), gradient: cut(gradients),
    };
  }

  /** Gradients come from the last layer to the first, so the last block that is not finite is where it began. */
  #notFinite(squares: ArrayLike<number>): SpkvError {
    const index = Array.from(squares).findLastIndex((square) => !Number.isFinite(square));
    const where = index < 0 ? 'all weights together' : this.parameters.layout.blocks[index]!.name;
    return new SpkvError('NON_FINITE', `Step ${this.steps + 1}: the gradient of ${where} is not finite; the weights are as they were`);
  }

  dispose(): void {
    for (const { parameter, momentum, variance, copy, gradient } of this.#rows) for (const view of [parameter, momentum, variance, copy, gradient]) view?.dispose();
    for (const { gradient, squares } of this.#norms) for (const view of [gradient, squares]) view.dispose();
    for (const tensor of [this.momentum, this.variance, this.#squares, this.#norm, this.#factor]) tensor.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
