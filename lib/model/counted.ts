import { SpkvError } from '../errors.js';
import type { Device, Sequence, Tensor } from '../ops.js';

/** How many tokens a step brings to a sequence. */
export interface Growth {
  sequence: Sequence;
  tokens: number;
}

/**
 * Runs the submission of a step. However it ends, the lengths of its sequences are afterwards those in the cache: one that
 * is cancelled, or fails behind the insertion, has added its tokens all the same.
 */
export async function counted<T>(device: Device, growths: readonly Growth[], body: () => Promise<T>, signal?: AbortSignal): Promise<T> {
  try {
    const result = await device.submit(body, signal);
    for (const { sequence, tokens } of growths) sequence.advance(tokens);
    return result;
  } catch (error) {
    await Promise.allSettled(growths.map(({ sequence }) => sequence.recount())); // the first error is the one to tell
    throw error;
  }
}

/**
 * The error of a step that has added nothing; where it is NON_FINITE, with the sequence and the positions that were being
 * read. Of several sequences the `logits` [N, V] tell which it was: row n of them belongs to number n.
 */
export async function withPositions(error: unknown, growths: readonly Growth[], logits: Tensor): Promise<unknown> {
  if (!(error instanceof SpkvError) || error.code !== 'NON_FINITE') return error;
  let row = 0;
  if (growths.length > 1) {
    const first = (await logits.readFloats()).findIndex((logit) => !Number.isFinite(logit));
    if (first < 0) return error;
    row = Math.floor(first / logits.shape[1]!);
  }
  const { sequence, tokens } = growths[row]!;
  const from = sequence.length;
  const positions = tokens === 1 ? `position ${from}` : `positions ${from} to ${from + tokens - 1}`;
  const name = growths.length > 1 ? `inputs[${row}].sequence` : 'the sequence';
  return new SpkvError('NON_FINITE', `${error.message} (${positions} of ${name})`, { cause: error });
}
