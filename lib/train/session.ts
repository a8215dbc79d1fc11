import { join } from 'node:path';
import { SpkvError } from '../errors.js';
import { type CheckpointContent, type Checkpoints, type RunState, writeCheckpoint } from './checkpoints.js';
import type { Batch, Batches } from './data/batches.js';
import type { TrainingData } from './data/open.js';
import { flopsPerToken } from './flops.js';
import type { RunLog, StepRecord, ValidationRecord } from './log.js';
import { checkpointJson, type Origin } from './model-config.js';
import type { RunSettings } from './plan.js';
import { writeReport } from './report/write.js';
import type { Surroundings } from './run-file.js';
import { measureRecall } from './recall.js';
import { planStep } from './schedule.js';
import { restoreState, stateTensors } from './state-tensors.js';
import type { TrainingStep } from './step.js';
import type { TrainResult } from './train.js';
import { measuredThresholds, validate } from './validate.js';

export interface SessionParts {
  training: TrainingStep;
  data: TrainingData;
  settings: RunSettings;
  origin: Origin;
  surroundings: Surroundings;
  checkpoints: Checkpoints;
  log: RunLog;
  peakFlops: number;
}

/** A run from where it stands to its end, or to where it is stopped. */
export class Session {
  #state: RunState;
  #validation: ValidationRecord | null = null;
  #validationBatches: Batch[] = [];
  #saved: number | undefined;

  constructor(private readonly parts: SessionParts) {
    this.#state = { step: 0, tokens: 0, seconds: 0, best: null, trainingTokens: parts.data.trainingTokens };
  }

  async run(): Promise<TrainResult> {
    const { settings, data, surroundings: { signal } } = this.parts;
    await this.#start();
    const batches = data.batches(settings);
    this.#validationBatches = await data.validationBatches(settings);
    let next = read(batches, this.#state.step);
    while (this.#state.step < settings.steps) {
      const micro = await next;
      if (this.#state.step + 1 < settings.steps) next = read(batches, this.#state.step + 1);
      if (signal?.aborted || !(await this.#step(micro))) return this.#end('stopped');
      const { step } = this.#state;
      const last = step === settings.steps;
      const save = last || step % settings.saveEvery === 0;
      if (save || step % settings.validateEvery === 0) if (!(await this.#validate())) return this.#end('stopped');
      if (save) await this.#save();
    }
    return this.#end('finished');
  }

  /** Takes up the last checkpoint, if the run is to go on from one. */
  async #start(): Promise<void> {
    const { checkpoints, training, settings, data, surroundings, log, peakFlops } = this.parts;
    const step = (await checkpoints.list()).at(-1) ?? 0;
    if (step > 0) {
      this.#state = await checkpoints.readState(step);
      if (this.#state.trainingTokens !== data.trainingTokens) {
        throw new SpkvError('FILE', `Expected the ${this.#state.trainingTokens} tokens of training data with which the run began, found ${data.trainingTokens}: the data has changed`);
      }
      await restoreState(training.optimizer, checkpoints.path(step), step);
      this.#saved = step;
    }
    await log.rewind(step);
    await this.#tell({
      kind: 'start', step, steps: settings.steps, time: new Date().toISOString(), device: training.device.description,
      settings, parameters: settings.parameters, trainingTokens: data.trainingTokens, validationTokens: data.validationTokens, peakFlops,
    });
    if (data.validationTokens < 2) surroundings.onWarning('there is no validation data: the best checkpoint is not known');
  }

  /** One step; false where the signal ended it, with everything as it was before. */
  async #step(micro: readonly Batch[]): Promise<boolean> {
    const { training, settings, surroundings: { signal }, peakFlops } = this.parts;
    const plan = planStep(this.#state.step, settings);
    const mode = plan.mode === 'annealed' ? { alpha: plan.alpha, threshold: settings.threshold } : plan.mode;
    const before = performance.now();
    let [loss, targets, tokens, kept, pairs] = [0, 0, 0, 0, 0];
    for (const batch of micro) {
      const result = await stoppable(this.#explained(training.accumulate(batch, mode, signal ? { signal } : {})), signal);
      if (!result) return false;
      loss += result.loss * result.tokens;
      targets += result.tokens;
      tokens += batch.ids.length;
      kept += mean(result.density) * result.pairs;
      pairs += result.pairs;
    }
    const { predictorRate: predictorScale, clip, weightDecay, beta1, beta2, epsilon } = settings;
    const { gradientNorm } = await this.#explained(training.update({
      learningRate: plan.learningRate, predictorScale, frozenPredictor: !plan.trainPredictor, clip, weightDecay, beta1, beta2, epsilon,
    }));
    const seconds = (performance.now() - before) / 1000;
    const { step, tokens: seen, ...rest } = this.#state;
    this.#state = { ...rest, step: step + 1, tokens: seen + tokens, seconds: rest.seconds + seconds };
    const record: StepRecord = {
      kind: 'step', step: step + 1, tokens: seen + tokens, mode: plan.mode, alpha: plan.alpha, learningRate: plan.learningRate,
      loss: loss / targets, density: settings.dense ? null : pairs === 0 ? 1 : kept / pairs, gradientNorm,
      seconds, tokensPerSecond: tokens / seconds,
      utilisation: (flopsPerToken(training.config, settings.sequenceLength) * tokens) / seconds / peakFlops,
    };
    await this.#tell(record);
    return true;
  }

  /** False where the signal ended it. */
  async #validate(): Promise<boolean> {
    const { training, settings, surroundings: { signal, out }, log } = this.parts;
    if (this.#validationBatches.length > 0) {
      const { step, tokens } = this.#state;
      const record = await stoppable(this.#explained(validate(training, this.#validationBatches, settings, { step, tokens }, signal)), signal);
      if (!record) return false;
      this.#validation = record;
      await this.#tell(record);
    }
    await writeReport(out, log);
    return true;
  }

  async #save(): Promise<void> {
    const { checkpoints, settings: { keep } } = this.parts;
    const { step, best } = this.#state;
    const validated = this.#validation?.step === step;
    const loss = validated ? deployedLoss(this.#validation!, this.parts.settings.threshold) : Infinity;
    const isBest = validated && loss < (best?.loss ?? Infinity);
    if (isBest) this.#state.best = { step, loss };
    const path = await checkpoints.save(step, { ...this.#content(), training: { state: this.#state, tensors: stateTensors(this.parts.training.optimizer) } });
    this.#saved = step;
    await checkpoints.prune(keep, this.#state.best ? [this.#state.best.step] : []);
    await this.#tell({ kind: 'save', step, path, best: isBest });
  }

  async #end(reason: 'finished' | 'stopped'): Promise<TrainResult> {
    const { checkpoints, settings, surroundings: { out }, log } = this.parts;
    const { step } = this.#state;
    if (this.#saved !== step) await this.#save();
    const model = join(out, 'model');
    if (reason === 'finished') {
      await writeCheckpoint(model, this.#content());
      if (settings.needles > 0) await this.#recall(model);
    }
    await this.#tell({ kind: 'end', step, reason });
    await writeReport(out, log);
    const finished = reason === 'finished';
    return { step, steps: settings.steps, finished, out, checkpoint: checkpoints.path(step), model: finished ? model : null, validation: this.#validation };
  }

  async #recall(model: string): Promise<void> {
    const { training, data, settings } = this.parts;
    const rows = await data.validationNeedles(settings);
    if (rows.length === 0) return;
    const thresholds = settings.dense ? [0] : measuredThresholds(settings);
    await this.#tell({ kind: 'recall', step: this.#state.step, results: await measureRecall(model, training.device, rows, thresholds) });
  }

  #content(): CheckpointContent {
    const { training, settings, origin } = this.parts;
    const { step, tokens } = this.#state;
    return {
      config: checkpointJson(origin, settings, { step, tokens }),
      weights: training.parameters.tensors(settings.dtype === 'f32' ? 'F32' : 'BF16'),
      tokenizerDir: origin.tokenizerDir,
    };
  }

  /** An error of the numbers, with where to go on from. */
  async #explained<T>(work: Promise<T>): Promise<T> {
    try {
      return await work;
    } catch (error) {
      if (!(error instanceof SpkvError) || error.code !== 'NON_FINITE') throw error;
      const last = this.#saved === undefined ? 'there is no checkpoint yet' : `the last checkpoint is ${this.parts.checkpoints.path(this.#saved)}`;
      throw new SpkvError('NON_FINITE', `${error.message}; ${last}. A lower learningRate or clip may help`, { cause: error });
    }
  }

  async #tell(record: Parameters<RunLog['add']>[0]): Promise<void> {
    await this.parts.log.add(record);
    this.parts.surroundings.onProgress(record);
  }
}

/** The batch of a step, read ahead: an error shows when the batch is wanted. */
function read(batches: Batches, step: number): Promise<Batch[]> {
  const reading = batches.read(step);
  reading.catch(() => {});
  return reading;
}

/** The result, or undefined where it failed because the signal was aborted. */
async function stoppable<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T | undefined> {
  try {
    return await work;
  } catch (error) {
    if (signal?.aborted && error === signal.reason) return undefined;
    throw error;
  }
}

/** The loss with the gates that inference will have. */
function deployedLoss({ dense, hard }: ValidationRecord, threshold: number): number {
  return hard.find((result) => result.threshold === threshold)?.loss ?? dense;
}

function mean(values: ArrayLike<number> | null): number {
  if (!values) return 1;
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i]!;
  return sum / values.length;
}
