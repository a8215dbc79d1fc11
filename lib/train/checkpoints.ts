import { randomBytes } from 'node:crypto';
import { copyFile, mkdir, open, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type TensorToWrite, writeSafetensors } from '../checkpoint/safetensors-write.js';
import { failure, fileError, kindOf } from '../files.js';
import { isObject, type JsonObject, readOptionalJson } from '../json.js';
import { writeWhole } from './write-whole.js';

const NAME = /^step-(\d{8,})$/;
const TEMPORARY = /^\.(step-\d+|model)\.[0-9a-f]{12}\.(tmp|old)$/;
/** Files of a checkpoint that training does not change. */
const COPIED = [
  'tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'added_tokens.json', 'tokenizer.model', 'vocab.json', 'merges.txt',
  'chat_template.jinja', 'generation_config.json',
];
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
    await writeDirectory(path, content);
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

/**
 * Writes a checkpoint directory under another name, which then becomes `path`; one that is there is replaced.
 * Errors: FILE.
 */
export async function writeDirectory(path: string, content: CheckpointContent): Promise<void> {
  const temporary = beside(path, 'tmp');
  try {
    await mkdir(temporary);
    await copyTokenizer(content.tokenizerDir, temporary);
    await writeWhole(join(temporary, 'config.json'), `${JSON.stringify(content.config, null, 2)}\n`);
    await writeSafetensors(join(temporary, 'model.safetensors'), content.weights, { format: 'pt' });
    if (content.training) {
      await writeSafetensors(join(temporary, STATE_TENSORS), content.training.tensors);
      await writeWhole(join(temporary, STATE_FILE), `${JSON.stringify(content.training.state, null, 2)}\n`);
    }
    await syncDirectory(temporary);
    if ((await kindOf(path)) !== undefined) await replace(path, temporary);
    else await rename(temporary, path);
    await syncDirectory(join(path, '..'));
  } catch (error) {
    await rm(temporary, { recursive: true, force: true }).catch(() => {});
    throw (error as NodeJS.ErrnoException).syscall === undefined ? error : failure(path, 'written', error);
  }
}

/** A directory cannot be renamed over another one: for a moment there is neither. */
async function replace(path: string, temporary: string): Promise<void> {
  const old = beside(path, 'old');
  await rename(path, old);
  await rename(temporary, path);
  await rm(old, { recursive: true, force: true });
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

function beside(path: string, ending: 'tmp' | 'old'): string {
  const name = path.split(/[/\\]/).at(-1)!;
  return join(path, '..', `.${name}.${randomBytes(6).toString('hex')}.${ending}`);
}

async function copyTokenizer(from: string | undefined, to: string): Promise<void> {
  if (from === undefined) return;
  for (const name of COPIED) {
    if ((await kindOf(join(from, name))) === 'file') await copyFile(join(from, name), join(to, name));
  }
}

async function readNames(dir: string): Promise<string[]> {
  try {
    return await readdir(dir);
  } catch (error) {
    throw failure(dir, 'listed', error);
  }
}

/** Makes sure that the names in a directory outlast a power cut. */
async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}
