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
import { agree, type Group } from './parallel/group.js';
import { planStep } from './schedule.js';
import { restoreState, stateTensors } from './state-tensors.js';
import type { TrainingStep } from './step.js';
import type { TrainResult } from './train.js';
import { mean, measuredThresholds, validate } from './validate.js';

export interface SessionParts {
  training: TrainingStep;
  data: TrainingData;
  /** This rank's part of them. */
  batches: Batches;
  settings: RunSettings;
  origin: Origin;
  surroundings: Surroundings;
  checkpoints: Checkpoints;
  log: RunLog;
  peakFlops: number;
  group: Group;
}

/** What a rank tells the others of one micro-batch. */
interface MicroResult {
  /** Sum over its targets. */
  loss: number;
  targets: number;
  tokens: number;
  kept: number;
  pairs: number;
}

/**
 * A run from where it stands to its end, or to where it is stopped. All ranks go through it alike, and know the same;
 * rank 0 alone writes and tells of it.
 */
export class Session {
  #state: RunState;
  #validation: ValidationRecord | null = null;
  #validationBatches: Batch[] = [];
  #saved: number | undefined;
  /** Whether a signal has come to some rank: all ranks stop after the same step. */
  #stopped = false;

  constructor(private readonly parts: SessionParts) {
    this.#state = { step: 0, tokens: 0, seconds: 0, best: null, trainingTokens: parts.data.trainingTokens };
  }

  async run(): Promise<TrainResult> {
    const { settings, data, batches } = this.parts;
    await this.#start();
    this.#validationBatches = await data.validationBatches(settings);
    let next = watched(batches.read(this.#state.step));
    while (this.#state.step < settings.steps) {
      const micro = await next;
      if (this.#state.step + 1 < settings.steps) next = watched(batches.read(this.#state.step + 1));
      if (this.#stops || !(await this.#step(micro))) return this.#end('stopped');
      const { step } = this.#state;
      const last = step === settings.steps;
      const save = last || step % settings.saveEvery === 0;
      if (save || step % settings.validateEvery === 0) if (!(await this.#validate())) return this.#end('stopped');
      if (save) await this.#save();
    }
    return this.#end('finished');
  }

  /** What may break off work in the middle: alone, for other ranks would wait for the rest of it. */
  get #signal(): AbortSignal | undefined {
    return this.parts.group.size === 1 ? this.parts.surroundings.signal : undefined;
  }

  get #stops(): boolean {
    return this.#stopped || this.#signal?.aborted === true;
  }

  get #writes(): boolean {
    return this.parts.group.rank === 0;
  }

  /** Takes up the last checkpoint, if the run is to go on from one. */
  async #start(): Promise<void> {
    const { checkpoints, training, settings, data, surroundings, log, peakFlops, group } = this.parts;
    const step = (await checkpoints.list()).at(-1) ?? 0;
    await agree(group, 'checkpoint', { 'last checkpoint': step });
    if (step > 0) {
      this.#state = await checkpoints.readState(step);
      if (this.#state.trainingTokens !== data.trainingTokens) {
        throw new SpkvError('FILE', `Expected the ${this.#state.trainingTokens} tokens of training data with which the run began, found ${data.trainingTokens}: the data has changed`);
      }
      await restoreState(training.optimizer, checkpoints.path(step), step);
      this.#saved = step;
    }
    await this.#agreeOnWeights();
    if (this.#writes) await log.rewind(step);
    await this.#tell({
      kind: 'start', step, steps: settings.steps, time: new Date().toISOString(), device: training.device.description, ranks: group.size,
      settings, parameters: settings.parameters, trainingTokens: data.trainingTokens, validationTokens: data.validationTokens, peakFlops,
    });
    if (data.validationTokens < 2) surroundings.onWarning('there is no validation data: the best checkpoint is not known');
  }

  /** One step; false where the signal ended it, with everything as it was before. */
  async #step(micro: readonly Batch[]): Promise<boolean> {
    const { training, settings, surroundings, peakFlops, group } = this.parts;
    const signal = this.#signal;
    const plan = planStep(this.#state.step, settings);
    const mode = plan.mode === 'annealed' ? { alpha: plan.alpha, threshold: settings.threshold } : plan.mode;
    const before = performance.now();
    const begin = (i: number) => watched(training.accumulate(micro[i]!, mode, { last: i === micro.length - 1, ...(signal && { signal }) }));
    const own: MicroResult[] = [];
    let running = begin(0);
    for (const [i, batch] of micro.entries()) {
      const next = i + 1 < micro.length ? begin(i + 1) : running; // the device has it when it has done this one
      const result = await stoppable(this.#explained(running), signal);
      if (!result) return false;
      running = next;
      own.push({
        loss: result.loss * result.tokens, targets: result.tokens, tokens: batch.ids.length, kept: (result.density ? mean(result.density) : 1) * result.pairs, pairs: result.pairs,
      });
    }
    const all = await group.exchange('step', { own, stop: surroundings.signal?.aborted === true });
    this.#stopped = group.size > 1 && all.some(({ stop }) => stop);
    const { loss, targets, tokens, kept, pairs } = sum(all.flatMap((rank) => rank.own));
    const { predictorRate: predictorScale, clip, weightDecay, beta1, beta2, epsilon } = settings;
    const { gradientNorm } = await this.#explained(training.update({
      learningRate: plan.learningRate, predictorScale, frozenPredictor: !plan.trainPredictor, clip, weightDecay, beta1, beta2, epsilon,
    }, targets));
    const seconds = (performance.now() - before) / 1000;
    const { step, tokens: seen, ...rest } = this.#state;
    this.#state = { ...rest, step: step + 1, tokens: seen + tokens, seconds: rest.seconds + seconds };
    const record: StepRecord = {
      kind: 'step', step: step + 1, tokens: seen + tokens, mode: plan.mode, alpha: plan.alpha, learningRate: plan.learningRate,
      loss: loss / targets, density: settings.dense ? null : pairs === 0 ? 1 : kept / pairs, gradientNorm,
      seconds, tokensPerSecond: tokens / seconds,
      utilisation: (flopsPerToken(training.config, settings.sequenceLength) * tokens) / seconds / (group.size * peakFlops),
    };
    await this.#tell(record);
    return true;
  }

  /** False where the signal ended it. */
  async #validate(): Promise<boolean> {
    const { training, settings, surroundings: { out }, log, group } = this.parts;
    const signal = this.#signal;
    if (this.#validationBatches.length > 0) {
      const { step, tokens } = this.#state;
      const record = await stoppable(this.#explained(validate(training, this.#validationBatches, settings, { step, tokens }, group, signal)), signal);
      if (!record) return false;
      this.#validation = record;
      await this.#tell(record);
    }
    if (this.#writes) await writeReport(out, log);
    return true;
  }

  async #save(): Promise<void> {
    const { checkpoints, settings: { keep } } = this.parts;
    await this.#agreeOnWeights();
    const { step, best } = this.#state;
    const validated = this.#validation?.step === step;
    const loss = validated ? deployedLoss(this.#validation!, this.parts.settings.threshold) : Infinity;
    const isBest = validated && loss < (best?.loss ?? Infinity);
    if (isBest) this.#state.best = { step, loss };
    if (this.#writes) {
      const path = await checkpoints.save(step, { ...this.#content(), training: { state: this.#state, tensors: stateTensors(this.parts.training.optimizer) } });
      await checkpoints.prune(keep, this.#state.best ? [this.#state.best.step] : []);
      await this.#tell({ kind: 'save', step, path, best: isBest });
    }
    this.#saved = step;
  }

  async #end(reason: 'finished' | 'stopped'): Promise<TrainResult> {
    const { checkpoints, settings, surroundings: { out }, log, group } = this.parts;
    const { step } = this.#state;
    if (this.#saved !== step) await this.#save();
    const model = join(out, 'model');
    if (reason === 'finished') {
      if (this.#writes) await writeCheckpoint(model, this.#content());
      if (settings.needles > 0) await this.#recall(model);
    }
    await this.#tell({ kind: 'end', step, reason });
    if (this.#writes) await writeReport(out, log);
    await group.exchange('end', null); // what rank 0 writes is there
    const finished = reason === 'finished';
    return { step, steps: settings.steps, finished, out, checkpoint: checkpoints.path(step), model: finished ? model : null, validation: this.#validation };
  }

  async #recall(model: string): Promise<void> {
    const { training, data, settings, group } = this.parts;
    await group.exchange('model', null); // it is there
    const rows = await data.validationNeedles(settings);
    if (rows.length === 0) return;
    const thresholds = settings.dense ? [0] : measuredThresholds(settings);
    await this.#tell({ kind: 'recall', step: this.#state.step, results: await measureRecall(model, training.device, rows, thresholds, group) });
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

  /** Ranks that have once drifted apart would train different models from then on. */
  async #agreeOnWeights(): Promise<void> {
    const { training, group } = this.parts;
    if (group.size > 1) await agree(group, 'weights', { weights: await training.parameters.checksum() });
  }

  async #tell(record: Parameters<RunLog['add']>[0]): Promise<void> {
    if (!this.#writes) return;
    await this.parts.log.add(record);
    this.parts.surroundings.onProgress(record);
  }
}

/** What was begun ahead: an error shows when the result is wanted. */
function watched<T>(work: Promise<T>): Promise<T> {
  work.catch(() => {});
  return work;
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

/** In their order, so that the sum of several ranks is that of one. */
function sum(results: readonly MicroResult[]): MicroResult {
  const total: MicroResult = { loss: 0, targets: 0, tokens: 0, kept: 0, pairs: 0 };
  for (const result of results) for (const name of Object.keys(total) as (keyof MicroResult)[]) total[name] += result[name];
  return total;
}

/** The loss with the gates that inference will have. */
function deployedLoss({ dense, hard }: ValidationRecord, threshold: number): number {
  return hard.find((result) => result.threshold === threshold)?.loss ?? dense;
}
