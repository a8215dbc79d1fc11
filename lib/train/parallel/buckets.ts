import type { Tensor } from '../../ops.js';
import type { Layout } from '../layout.js';
import type { Reduction } from './reduction.js';

/** Least elements of a sum: many small ones take longer than one. */
const LEAST = 2 ** 22;

/**
 * Gradients on their way to a sum over all ranks. The backward pass completes the blocks of the layout from the last to
 * the first, so that neighbours can be summed together, as soon as the first of them is complete:
 *
 *   embedding │ layer 0 │ layer 1 │ layer 2 │ layer 3 │ norm, head
 *   ◀── third bucket ──▶ ◀── second ──────▶ ◀── first bucket ─────▶
 */
export class Buckets {
  /** By the block that completes them. */
  readonly #views = new Map<number, Tensor>();

  constructor(layout: Layout, gradients: Tensor, private readonly reduction: Reduction, least = LEAST) {
    let end = layout.size;
    for (let index = layout.blocks.length - 1; index >= 0; index--) {
      const { start } = layout.blocks[index]!;
      if (index > 0 && end - start < least) continue;
      this.#views.set(index, gradients.slice(0, start, end));
      end = start;
    }
  }

  /** The gradients of a block and of all behind it have been enqueued. */
  completed(block: number): void {
    const view = this.#views.get(block);
    if (view) this.reduction.sum(view);
  }

  dispose(): void {
    for (const view of this.#views.values()) view.dispose();
  }
}
