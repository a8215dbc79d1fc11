import { SpkvError } from '../errors.js';
import type { LogRecord, ValidationRecord } from './log.js';
import { meet } from './parallel/meet.js';
import { openNccl, type OpenReduction } from './parallel/reduction.js';
import { checkRanks, ranksOf } from './parallel/ranks.js';
import { run } from './run.js';
import type { TrainOptions } from './run-file.js';

/** What a run tells while it goes on: its log as it is written, and how far the text has been tokenised. */
export type TrainEvent = LogRecord | { kind: 'tokenise'; done: number; total: number };

/** How far a run has come, and where what it made lies. */
export interface TrainResult {
  /** Steps done, of how many. */
  step: number;
  steps: number;
  /** False where the signal stopped the run; it can be resumed. */
  finished: boolean;
  /** Directory of the run. */
  out: string;
  /** Its last checkpoint, with what training needs to go on. */
  checkpoint: string;
  /** The trained model, for use; null until the run is finished. */
  model: string | null;
  validation: ValidationRecord | null;
}

/**
 * Trains a model on text: teaches a dense checkpoint which pairs to keep, or, with `dense`, trains one without
 * gates. Everything is written to `out`: checkpoints in Hugging Face layout, log.jsonl, report.html, and at the end
 * the directory `model`. When `signal` is aborted the run saves a checkpoint and resolves, not finished; `resume`
 * continues it, on the CPU exactly as if it had never stopped.
 *
 *   import { train } from 'spkv/train';
 *   const { model } = await train({ model: './dense', data: './texts', out: './run', onProgress: console.log });
 *
 * Several processes with a GPU each train together where the environment, or `ranks`, says so: all call it with the same
 * options, and get the same result. Rank 0 alone writes, tells of the progress and warns.
 *
 * Errors: INVALID_ARGUMENT; FILE, also for bad data, with file and line; UNSUPPORTED; OUT_OF_MEMORY, with what was
 * needed; NON_FINITE, with step and layer, the last checkpoint untouched; RANK where another process is missing, has
 * ended, or was started otherwise, and what it has failed with; the reason of `signal` before the first step.
 */
export async function train(options: TrainOptions): Promise<TrainResult> {
  return trainWith(options, openNccl);
}

/** @internal With another way to sum gradients. */
export async function trainWith(options: TrainOptions, openReduction: OpenReduction): Promise<TrainResult> {
  const { signal } = options;
  signal?.throwIfAborted();
  const ranks = options.ranks === undefined ? ranksOf() : checkRanks(options.ranks);
  const group = await meet(ranks);
  try {
    return await run(options, ranks, group, openReduction);
  } catch (error) {
    const { failure } = group;
    group.fail(signal?.aborted && error === signal.reason ? new SpkvError('ABORTED', 'it was stopped') : (error as Error));
    throw failure ?? error;
  } finally {
    await group.close();
  }
}
