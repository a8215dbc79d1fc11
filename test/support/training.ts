// A very small model in training, and texts for it.
import { join } from 'node:path';
import { openCheckpoint } from '../../lib/checkpoint/checkpoint.js';
import { type Family, parseConfig } from '../../lib/checkpoint/config.js';
import type { Device } from '../../lib/ops.js';
import { Parameters } from '../../lib/train/parameters.js';
import type { Batch } from '../../lib/train/step.js';
import { type Json, SPKV, tinyConfig, writeRandomCheckpoint } from './checkpoints.js';
import { random } from './device.js';

export const TINY_SPKV: Json = { ...SPKV, window: 5 };

/** Parameters of a tiny model of `family` with gates of all sizes, by way of a checkpoint in `root`. */
export async function tinyParameters(device: Device, root: string, family: Family = 'llama', changes: Json = {}): Promise<Parameters> {
  const config = tinyConfig(family, { spkv: TINY_SPKV, ...changes });
  const { dir } = await writeRandomCheckpoint(join(root, `${family}-${Math.random()}`), config);
  const checkpoint = await openCheckpoint(dir);
  return Parameters.load(checkpoint, device, parseConfig(config, 'config.json'), 0);
}

/** Documents of these lengths in which a token mostly follows from the one before it; some targets do not count. */
export function tinyBatch(lengths: readonly number[], vocabSize: number, seed = 1, ignored = 0.1): Batch {
  const uniform = random(seed);
  const offsets = [0];
  const ids: number[] = [];
  const targets: number[] = [];
  for (const length of lengths) {
    let token = Math.floor(uniform() * vocabSize);
    for (let t = 0; t < length; t++) {
      const next = uniform() < 0.1 ? Math.floor(uniform() * vocabSize) : (5 * token + 1) % vocabSize;
      ids.push(token);
      targets.push(uniform() < ignored ? -1 : next);
      token = next;
    }
    offsets.push(ids.length);
  }
  return { ids: Int32Array.from(ids), targets: Int32Array.from(targets), offsets: Int32Array.from(offsets) };
}

/** The documents [from, to) of a batch. */
export function documents({ ids, targets, offsets }: Batch, from: number, to: number): Batch {
  const [start, end] = [offsets[from]!, offsets[to]!];
  return { ids: ids.slice(start, end), targets: targets.slice(start, end), offsets: offsets.slice(from, to + 1).map((offset) => offset - start) };
}
