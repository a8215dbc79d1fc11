import { invalid } from '../check.js';
import { SpkvError } from '../errors.js';

/** Refuses anything but a non-empty list of ids that the vocabulary has. */
export function checkTokenIds(ids: ArrayLike<number>, name: string, vocabSize: number): void {
  if (ids === null || typeof ids !== 'object' || !Number.isInteger(ids.length)) throw invalid('an array of token ids', name, ids);
  if (ids.length === 0) throw invalid('at least one token', name, ids);
  for (let i = 0; i < ids.length; i++) {
    const id = ids[i]!;
    if (Number.isInteger(id) && id >= 0 && id < vocabSize) continue;
    throw new SpkvError('OUT_OF_RANGE', `Expected token ids from 0 to ${vocabSize - 1} but ${name}[${i}] is ${id}`);
  }
}
