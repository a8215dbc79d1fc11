import type { SpkvError } from '../errors.js';
import type { Choice } from './choice.js';
import type { TokenLogprobs } from './logprobs.js';

/** Tokens of a prompt that are read in one step. */
export interface Piece {
  choice: Choice;
  /** Up to the next multiple of the model's chunk: where a prompt is cut depends on nothing but the prompt. */
  ids: readonly number[];
}

/** One step of the model. */
export interface Batch {
  // --- Filled by the scheduler.
  /** Texts that read one token and draw the next. Texts keep their places from step to step as far as possible. */
  rows: Choice[];
  /** Pieces of prompts beside them. */
  pieces: Piece[];
  /** Pages that the step takes from the pool at most. */
  pages: number;

  // --- Filled by the runner.
  /** The token drawn for each row. Means nothing where the row has failed. */
  drawn: Int32Array;
  /** For rows whose request asks for it; there is nothing for others. */
  logprobs: (TokenLogprobs | undefined)[];
  /** For texts whose request asks: of each token that they have read, which layers and heads keep it. */
  kept: Map<Choice, Uint8Array[]>;
  /** Texts that failed by themselves. The others have gone on. */
  failures: Map<Choice, SpkvError>;
}

export function emptyBatch(): Batch {
  return { rows: [], pieces: [], pages: 0, drawn: new Int32Array(0), logprobs: [], kept: new Map(), failures: new Map() };
}

/** `choices` in the order of a step before, as far as they were in it; where one has gone, the last one moves up. */
export function keepPlaces(before: readonly Choice[], choices: readonly Choice[]): Choice[] {
  const fresh = new Set(choices);
  const places = before.map((choice) => (fresh.delete(choice) ? choice : undefined));
  places.push(...fresh);
  for (let i = 0; i < places.length; i++) {
    while (places.length > i && places.at(-1) === undefined) places.pop();
    if (i < places.length) places[i] ??= places.pop();
  }
  return places as Choice[];
}
