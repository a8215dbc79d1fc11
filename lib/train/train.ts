import { join } from 'node:path';
import { SpkvError } from '../errors.js';
import { openDevice } from '../device.js';
import type { Device } from '../ops.js';
import { Checkpoints } from './checkpoints.js';
import { documentBounds } from './data/bounds.js';
import { TrainingData } from './data/open.js';
import { measurePeak } from './flops.js';
import { type LogRecord, RunLog, type ValidationRecord } from './log.js';
import { checkMemory, memoryNeed, outOfMemory } from './memory.js';
import { type Origin, openOrigin } from './model-config.js';
import { Parameters } from './parameters.js';
import { planRun, type RunSettings } from './plan.js';
import { readOptions, RUN_FILE, type RunFile, type Surroundings, type TrainOptions } from './run-file.js';
import { Session } from './session.js';
import { checkOutput } from './space.js';
import { TrainingStep } from './step.js';
import { countedThresholds } from './validate.js';
import { writeWhole } from '../write.js';

/** What a run tells while it goes on: its log as it is written, and how far the text has been tokenised. */
export type TrainEvent = LogRecord | { kind: 'tokenise'; done: number; total: number };

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
 * Errors: INVALID_ARGUMENT; FILE, also for bad data, with file and line; UNSUPPORTED; OUT_OF_MEMORY, with what was
 * needed; NON_FINITE, with step and layer, the last checkpoint untouched; the reason of `signal` before the first step.
 */
export async function train(options: TrainOptions): Promise<TrainResult> {
  const { run, surroundings } = await readOptions(options);
  surroundings.signal?.throwIfAborted();
  const origin = await openOrigin(run);
  const settings = planRun(run.settings, origin.config);
  checkPlan(settings, origin);
  const { device: name, threads, onWarning, out } = surroundings;
  using device = openDevice(name, { onWarning, ...(threads === undefined ? {} : { threads }) });
  const need = memoryNeed(origin.config, settings, device.precision);
  checkMemory(need, settings, device);
  // Weights, and in f32 the weights again with two moments; the parts of a checkpoint that are not tensors are small.
  await checkOutput(out, need.weights, settings.keep, onWarning);
  await using data = await openData(run, settings, origin, surroundings);
  let training: TrainingStep | undefined;
  using parameters = await guardMemory(() => startParameters(origin, device, settings), need, settings);
  try {
    training = await guardMemory(async () => newStep(parameters, settings), need, settings);
    const checkpoints = new Checkpoints(out);
    await checkpoints.clean();
    await writeWhole(join(out, RUN_FILE), `${JSON.stringify(run, null, 2)}\n`);
    const peakFlops = surroundings.peakFlops ?? (await measurePeak(device));
    const session = new Session({ training, data, settings, origin, surroundings, checkpoints, log: new RunLog(join(out, 'log.jsonl')), peakFlops });
    return await guardMemory(() => session.run(), need, settings);
  } finally {
    training?.dispose();
  }
}

function checkPlan({ sequenceLength, warmupSteps, steps, batchSize, microBatch }: RunSettings, { config }: Origin): void {
  const { maxPositions } = config;
  const refuse = (text: string) => {
    throw new SpkvError('INVALID_ARGUMENT', text);
  };
  if (sequenceLength > maxPositions) refuse(`Expected at most ${maxPositions}, the positions of the model, for sequenceLength but received ${sequenceLength}`);
  if (warmupSteps > steps) refuse(`Expected at most ${steps}, the steps of the run, for warmupSteps but received ${warmupSteps}`);
  if (batchSize % microBatch !== 0) refuse(`Expected a divisor of batchSize (${batchSize}) for microBatch but received ${microBatch}`);
}

function openData(run: RunFile, settings: RunSettings, origin: Origin, { out, onProgress, onWarning, signal }: Surroundings): Promise<TrainingData> {
  const { tokenizer, config: { vocabSize, eosTokenIds } } = origin;
  return TrainingData.open({
    dir: out, data: run.data, validation: run.validation, validationShare: settings.validationShare,
    encoding: { tokenizer, vocabSize, ...documentBounds(tokenizer, eosTokenIds) },
    skipBadData: settings.skipBadData,
    onProgress: (done, total) => onProgress({ kind: 'tokenise', done, total }),
    onWarning, signal,
  });
}

async function startParameters({ checkpoint, config }: Origin, device: Device, { seed, predictorBias }: RunSettings): Promise<Parameters> {
  const parameters = checkpoint ? await Parameters.load(checkpoint, device, config, seed) : await Parameters.random(device, config, seed);
  if (!config.spkv || checkpoint?.config.spkv) return parameters;
  for (const { name } of parameters.layout.parts.filter((part) => part.name.endsWith('utility_predictor.fc2.bias'))) {
    parameters.layout.part(parameters.values, name).write(new Float32Array(config.kvHeads).fill(predictorBias));
  }
  return parameters;
}

function newStep(parameters: Parameters, settings: RunSettings): TrainingStep {
  const { microBatch, sequenceLength, recompute, densityWeight } = settings;
  return new TrainingStep(parameters, { tokens: microBatch * sequenceLength, recompute, densityWeight, thresholds: countedThresholds(settings) });
}

/** Says of memory that ran out how much is needed, and what to lower. */
async function guardMemory<T>(run: () => Promise<T>, need: ReturnType<typeof memoryNeed>, settings: RunSettings): Promise<T> {
  try {
    return await run();
  } catch (error) {
    if (!(error instanceof SpkvError) || error.code !== 'OUT_OF_MEMORY') throw error;
    throw outOfMemory(need, settings, error.message, error);
  }
}
