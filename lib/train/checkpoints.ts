import { readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { copyCompanions } from '../checkpoint/companions.js';
import { type TensorToWrite, writeSafetensors } from '../checkpoint/safetensors-write.js';
import { failure, fileError, kindOf } from '../files.js';
import { isObject, type JsonObject, readOptionalJson } from '../json.js';
import { beside, writeDirectory, writeWhole } from '../write.js';

const NAME = /^step-(\d{8,})$/;
const TEMPORARY = /^\.(step-\d+|model)\.[0-9a-f]{12}\.(tmp|old)$/;
export const STATE_FILE = 'training.json';
export const STATE_TENSORS = 'training.safetensors';

/** What a run needs to go on, beside the tensors of its optimiser. */
export interface RunState {
  /** Steps done. */
  step: number;
  /** Tokens trained on. */
  tokens: number;
  /** Seconds spent on steps. */
  seconds: number;
  /** The checkpoint with the lowest validation loss so far. */
  best: { step: number; loss: number } | null;
  /** Of the data, which must not change. */
  trainingTokens: number;
}

/** A checkpoint in Hugging Face layout, to be written. */
export interface CheckpointContent {
  config: JsonObject;
  weights: TensorToWrite[];
  /** Directory that the tokenizer's files come from, if any. */
  tokenizerDir: string | undefined;
  /** What training needs to go on; left out of a final model. */
  training?: { state: RunState; tensors: TensorToWrite[] };
}

/** The checkpoints of a run: directories `step-00000100` that are there as a whole or not at all. */
export class Checkpoints {
  constructor(readonly dir: string) {}

  path(step: number): string {
    return join(this.dir, `step-${String(step).padStart(8, '0')}`);
  }

  /** Steps of the checkpoints that are there, in order. */
  async list(): Promise<number[]> {
    if ((await kindOf(this.dir)) !== 'directory') return [];
    const names = await readNames(this.dir);
    return names.flatMap((name) => NAME.exec(name)?.[1] ?? []).map(Number).sort((a, b) => a - b);
  }

  /** Writes a checkpoint. Whatever ends the process meanwhile, others stay as they are. Errors: FILE. */
  async save(step: number, content: CheckpointContent): Promise<string> {
    const path = this.path(step);
    await writeCheckpoint(path, content);
    return path;
  }

  /** Removes all but the last `keep` and those of `others`. */
  async prune(keep: number, others: readonly number[]): Promise<void> {
    const steps = await this.list();
    for (const step of steps.slice(0, -keep)) if (!others.includes(step)) await remove(this.path(step));
  }

  /** Removes what a killed process has left half written. */
  async clean(): Promise<void> {
    for (const name of await readNames(this.dir)) if (TEMPORARY.test(name)) await remove(join(this.dir, name));
  }

  async readState(step: number): Promise<RunState> {
    const path = join(this.path(step), STATE_FILE);
    const json = await readOptionalJson(path);
    if (!isObject(json) || json['step'] !== step) throw fileError(path, `expected the state of a run after ${step} steps, found ${json ? 'something else' : 'no such file'}`);
    return json as unknown as RunState;
  }
}

/** Writes a checkpoint directory, which is there as a whole or not at all; one that is there is replaced. Errors: FILE. */
export function writeCheckpoint(path: string, content: CheckpointContent): Promise<void> {
  return writeDirectory(path, async (temporary) => {
    if (content.tokenizerDir !== undefined) await copyCompanions(content.tokenizerDir, temporary);
    await writeWhole(join(temporary, 'config.json'), `${JSON.stringify(content.config, null, 2)}\n`);
    await writeSafetensors(join(temporary, 'model.safetensors'), content.weights, { format: 'pt' });
    if (content.training) {
      await writeSafetensors(join(temporary, STATE_TENSORS), content.training.tensors);
      await writeWhole(join(temporary, STATE_FILE), `${JSON.stringify(content.training.state, null, 2)}\n`);
    }
  });
}

/** Renamed first, so that a removal that is cut short leaves nothing that looks like a checkpoint. */
async function remove(path: string): Promise<void> {
  const old = TEMPORARY.test(path.split(/[/\\]/).at(-1)!) ? path : beside(path, 'old');
  try {
    if (old !== path) await rename(path, old);
    await rm(old, { recursive: true, force: true });
  } catch (error) {
    throw failure(path, 'removed', error);
  }
}

async function readNames(dir: string): Promise<string[]> {
  try {
    return await readdir(dir);
  } catch (error) {
    throw failure(dir, 'listed', error);
  }
}
