import { reportCache } from '../report.js';
import type { Device } from '../device.js';
import { loadModel } from '../text-model.js';
import type { Model } from '../model/model.js';
import type { NeedleRow } from './data/needles.js';
import { Alone, type Group } from './parallel/group.js';

/** How well a model remembers notes at one threshold. */
export interface RecallResult {
  threshold: number;
  /** Share of the values that are given back exactly, each token the likeliest after the right ones before it. */
  recall: number;
  /** Share of pairs kept of those that have left the window. */
  density: number;
}

/**
 * Reads sequences with needles through the cache of a model on disk, as inference does, at several thresholds; every rank
 * takes a share of them.
 */
export async function measureRecall(
  dir: string, device: Device, rows: readonly NeedleRow[], thresholds: readonly number[], group: Group = new Alone(), signal?: AbortSignal,
): Promise<RecallResult[]> {
  using model = await loadModel(dir, { device, ...(signal && { signal }) });
  const results: RecallResult[] = [];
  for (const threshold of thresholds) {
    const own: Awaited<ReturnType<typeof readRow>>[] = [];
    for (let i = group.rank; i < rows.length; i += group.size) own.push(await readRow(model, rows[i]!, threshold, signal));
    const all = await group.exchange('recall', own);
    let [right, asked, density] = [0, 0, 0];
    for (const [i, row] of rows.entries()) {
      const found = all[i % group.size]![Math.floor(i / group.size)]!;
      right += found.right;
      asked += row.values.length;
      density += found.density / rows.length;
    }
    results.push({ threshold, recall: right / asked, density });
  }
  return results;
}

async function readRow(model: Model, { ids, targets, values }: NeedleRow, threshold: number, signal?: AbortSignal): Promise<{ right: number; density: number }> {
  const sequence = await model.createSequence({ threshold });
  try {
    const start = values[0]!.start; // logits are needed from the first value on
    const options = signal ? { signal } : {};
    if (start > 0) await model.prefill(sequence, ids.subarray(0, start), options);
    const logits = await model.stepAll(sequence, ids.subarray(start), signal);
    const { vocabSize } = model.config;
    const likeliest = (place: number) => argmax(logits.subarray((place - start) * vocabSize, (place - start + 1) * vocabSize));
    const right = values.filter((value) => {
      for (let place = value.start; place < value.end; place++) if (likeliest(place) !== targets[place]) return false;
      return true;
    }).length;
    return { right, density: (await reportCache(sequence)).density };
  } finally {
    await sequence.dispose();
  }
}

function argmax(values: Float32Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i;
  return best;
}
