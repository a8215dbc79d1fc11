import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TrainOptions } from '../../lib/train/index.js';
import { type Json, tinyConfig, writeRandomCheckpoint } from './checkpoints.js';
import { random } from './device.js';

/**
 * A random dense checkpoint and token ids in which something can be learned: most tokens follow from the one before,
 * and each document repeats a few of its own.
 */
export async function writeTinyTask(dir: string, changes: Json = {}): Promise<{ model: string; data: string }> {
  const { dir: model } = await writeRandomCheckpoint(join(dir, 'dense'), tinyConfig('llama', { torch_dtype: 'bfloat16', ...changes }));
  const uniform = random(5);
  const lines = Array.from({ length: 120 }, () => {
    const own = Math.floor(uniform() * 16);
    let id = 3 + Math.floor(uniform() * 40);
    return JSON.stringify({ ids: Array.from({ length: 60 }, (_, i) => (i % 12 === 11 ? 3 + own : (id = 3 + ((id * 7 + 5 + (uniform() < 0.1 ? 1 : 0)) % 40)))) });
  });
  const data = join(dir, 'data.jsonl');
  writeFileSync(data, `${lines.join('\n')}\n`);
  return { model, data };
}

/** A run of a few small steps over it. */
export function tinyRun({ model, data }: { model: string; data: string }, out: string, changes: Partial<TrainOptions> = {}): TrainOptions {
  return {
    model, out, data: { path: data, field: 'ids' }, device: 'cpu', threads: 2, peakFlops: 1e9,
    steps: 6, sequenceLength: 48, batchSize: 4, microBatch: 2, window: 8, predictorHiddenSize: 8, learningRate: 1e-2, warmupSteps: 1,
    validationShare: 0.1, validationTokens: 256, saveEvery: 2, validateEvery: 2, seed: 3,
    ...changes,
  };
}
