import type { Batch } from './data/batches.js';
import type { HardResult, ValidationRecord } from './log.js';
import type { RunSettings } from './plan.js';
import type { Group } from './parallel/group.js';
import type { BatchResult, TrainingMode, TrainingStep } from './step.js';

/** Equal steps from 0 to 1 into which utilities are sorted. */
const BINS = 20;

/**
 * The thresholds that a training step counts at: first the run's own, for its density, then the bounds of the
 * histogram, then those at which hard gates are measured.
 */
export function countedThresholds(settings: RunSettings): number[] {
  const bounds = Array.from({ length: BINS }, (_, i) => i / BINS);
  return [settings.threshold, ...bounds, ...measuredThresholds(settings)];
}

/** Those that were asked for, and the run's own. */
export function measuredThresholds({ threshold, validationThresholds }: RunSettings): number[] {
  return [...new Set([...validationThresholds, threshold])].sort((a, b) => a - b);
}

/** What counts of a batch, as ranks tell it to one another. */
type Counted = Pick<BatchResult, 'loss' | 'tokens' | 'pairs'> & { kept: number[] | null };

/** What was measured over all validation batches with one kind of gates. */
class Measurement {
  #loss = 0;
  #tokens = 0;
  #pairs = 0;
  #kept: number[] | undefined;

  constructor(private readonly lists: number) {}

  add({ loss, tokens, pairs, kept }: Counted): void {
    this.#loss += loss * tokens;
    this.#tokens += tokens;
    this.#pairs += pairs;
    if (kept) this.#kept = Array.from(kept, (count, i) => count + (this.#kept?.[i] ?? 0));
  }

  get loss(): number {
    return this.#loss / this.#tokens;
  }

  /** Share of pairs whose utility reaches the counted threshold `index`, for each list of a layer and head. */
  shares(index: number): number[] {
    const counts = this.#kept!;
    const step = counts.length / this.lists;
    return Array.from({ length: this.lists }, (_, list) => (this.#pairs === 0 ? 1 : counts[list * step + index]! / this.#pairs));
  }
}

/** Measures the model as it is; every rank takes a share of the batches. Errors: those of TrainingStep.evaluate. */
export async function validate(
  training: TrainingStep, batches: readonly Batch[], settings: RunSettings, progress: { step: number; tokens: number }, group: Group,
  signal?: AbortSignal,
): Promise<ValidationRecord> {
  const { layers, kvHeads, spkv } = training.config;
  const measure = async (mode: TrainingMode): Promise<Measurement> => {
    const own: Counted[] = [];
    for (let i = group.rank; i < batches.length; i += group.size) {
      const { loss, tokens, pairs, kept } = await training.evaluate(batches[i]!, mode, signal ? { signal } : {});
      own.push({ loss, tokens, pairs, kept: kept && Array.from(kept) });
    }
    const all = await group.exchange('validation', own);
    const measurement = new Measurement(layers * kvHeads);
    for (const i of batches.keys()) measurement.add(all[i % group.size]![Math.floor(i / group.size)]!);
    return measurement;
  };
  const byLayer = <T>(lists: readonly T[]): T[][] => Array.from({ length: layers }, (_, layer) => lists.slice(layer * kvHeads, (layer + 1) * kvHeads));
  const dense = (await measure('dense')).loss;
  const record = { kind: 'validation' as const, ...progress, dense };
  if (!spkv) return { ...record, soft: null, hard: [], densities: null, histograms: null };
  const soft = await measure('soft');
  const hard: HardResult[] = [];
  let own = soft;
  for (const [i, threshold] of measuredThresholds(settings).entries()) {
    const result = await measure({ alpha: 1, threshold });
    const density = mean(result.shares(1 + BINS + i));
    hard.push({ threshold, loss: result.loss, density });
    if (threshold === settings.threshold) own = result;
  }
  return { ...record, soft: soft.loss, hard, densities: byLayer(own.shares(0)), histograms: byLayer(histograms(own)) };
}

/** The share of utilities in each step, for each list: from the shares that reach its lower and its upper bound. */
function histograms(measurement: Measurement): number[][] {
  const reach = Array.from({ length: BINS }, (_, i) => measurement.shares(1 + i));
  return reach[0]!.map((_, list) => reach.map((shares, i) => shares[list]! - (reach[i + 1]?.[list] ?? 0)));
}

export function mean(values: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i]!;
  return sum / values.length;
}
