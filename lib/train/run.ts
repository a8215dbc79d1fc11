import { join } from 'node:path';
import { openDevice } from '../device.js';
import { SpkvError } from '../errors.js';
import type { Device } from '../ops.js';
import { writeWhole } from '../write.js';
import { Checkpoints } from './checkpoints.js';
import { documentBounds } from './data/bounds.js';
import { TrainingData } from './data/open.js';
import { measurePeak } from './flops.js';
import { RunLog } from './log.js';
import { checkMemory, memoryNeed, outOfMemory } from './memory.js';
import { type Origin, openOrigin } from './model-config.js';
import { agree, type Group } from './parallel/group.js';
import type { OpenReduction, Reduction } from './parallel/reduction.js';
import type { Ranks } from './parallel/ranks.js';
import { Parameters } from './parameters.js';
import { planRun, type RunSettings } from './plan.js';
import { readOptions, RUN_FILE, type RunFile, type Surroundings, type TrainOptions } from './run-file.js';
import { Session } from './session.js';
import { checkOutput } from './space.js';
import { TrainingStep } from './step.js';
import type { TrainResult } from './train.js';
import { countedThresholds } from './validate.js';

/** A run from its options to its result: opens everything that it needs, on every rank alike but for what rank 0 writes. */
export async function run(options: TrainOptions, ranks: Ranks | undefined, group: Group, openReduction: OpenReduction): Promise<TrainResult> {
  const writes = group.rank === 0;
  const { run: file, surroundings: given } = await readOptions(options);
  const surroundings = writes ? given : { ...given, onProgress: () => {}, onWarning: () => {} };
  const { out, threads, onWarning } = surroundings;
  const origin = await openOrigin(file);
  const settings = planRun(file.settings, origin.config, group.size);
  checkPlan(settings, origin, group.size);
  // From here on rank 0 may write what the others have looked at.
  await agree(group, 'settings', { out, resume: surroundings.resume, 'config of the model': JSON.stringify(origin.json), ...settings });
  using device = openDevice(deviceOf(surroundings, ranks), { onWarning, timeProducts: true, ...(threads === undefined ? {} : { threads }) });
  const need = memoryNeed(origin.config, settings, device.precision);
  checkMemory(need, settings, device);
  // Weights, and in f32 the weights again with two moments; the parts of a checkpoint that are not tensors are small.
  if (writes) await checkOutput(out, need.weights, settings.keep, onWarning);
  if (!writes) await group.exchange('tokens', null);
  await using data = await openData(file, settings, origin, { ...surroundings, signal: endingWith(group, surroundings.signal) }, writes);
  if (writes) await group.exchange('tokens', null);
  await agree(group, 'data', data.facts);
  const batches = data.batches(settings, { rank: group.rank, worldSize: group.size });
  let training: TrainingStep | undefined;
  let reduction: Reduction | undefined;
  using parameters = await guardMemory(() => startParameters(origin, device, settings), need, settings);
  try {
    if (group.size > 1) reduction = await openReduction(device, group);
    training = await guardMemory(async () => newStep(parameters, settings, reduction), need, settings);
    const checkpoints = new Checkpoints(out);
    if (writes) {
      await checkpoints.clean();
      await writeWhole(join(out, RUN_FILE), `${JSON.stringify(file, null, 2)}\n`);
    }
    const peakFlops = surroundings.peakFlops ?? (writes ? await measurePeak(device) : 1);
    const log = new RunLog(join(out, 'log.jsonl'));
    const session = new Session({ training, data, batches, settings, origin, surroundings, checkpoints, log, peakFlops, group });
    return await guardMemory(() => session.run(), need, settings);
  } catch (error) {
    group.fail(error as Error); // before anything waits for the device, which may wait for other ranks
    throw error;
  } finally {
    await reduction?.dispose();
    training?.dispose();
  }
}

/** A signal that is aborted when the group fails, too: tokenising may take hours. */
function endingWith(group: Group, signal: AbortSignal | undefined): AbortSignal {
  const failed = new AbortController();
  group.onFailure(() => failed.abort(group.failure));
  return signal ? AbortSignal.any([signal, failed.signal]) : failed.signal;
}

/** Each rank of a host takes a GPU of its own; where it is shown only one, that one. */
function deviceOf({ device }: Surroundings, ranks: Ranks | undefined): string {
  if (!ranks || ranks.size === 1 || device !== 'auto') return device;
  const visible = process.env['CUDA_VISIBLE_DEVICES'];
  return visible && !visible.includes(',') ? 'cuda:0' : `cuda:${ranks.localRank}`;
}

function checkPlan({ sequenceLength, warmupSteps, steps, batchSize, microBatch }: RunSettings, { config }: Origin, ranks: number): void {
  const { maxPositions } = config;
  const refuse = (text: string) => {
    throw new SpkvError('INVALID_ARGUMENT', text);
  };
  if (sequenceLength > maxPositions) refuse(`Expected at most ${maxPositions}, the positions of the model, for sequenceLength but received ${sequenceLength}`);
  if (warmupSteps > steps) refuse(`Expected at most ${steps}, the steps of the run, for warmupSteps but received ${warmupSteps}`);
  if (batchSize % ranks !== 0) refuse(`Expected a multiple of ${ranks}, the number of ranks, for batchSize but received ${batchSize}`);
  const share = ranks === 1 ? `batchSize (${batchSize})` : `the ${batchSize / ranks} sequences of each rank`;
  if ((batchSize / ranks) % microBatch !== 0) refuse(`Expected a divisor of ${share} for microBatch but received ${microBatch}`);
}

/** Tokenises where `make`; else takes what has been made. */
function openData(
  run: RunFile, settings: RunSettings, origin: Origin, { out, onProgress, onWarning, signal }: Surroundings, make: boolean,
): Promise<TrainingData> {
  const { tokenizer, config: { vocabSize, eosTokenIds } } = origin;
  return TrainingData.open({
    dir: out, make, data: run.data, validation: run.validation, validationShare: settings.validationShare,
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

function newStep(parameters: Parameters, settings: RunSettings, reduction: Reduction | undefined): TrainingStep {
  const { microBatch, sequenceLength, recompute, densityWeight } = settings;
  return new TrainingStep(parameters, { tokens: microBatch * sequenceLength, recompute, densityWeight, thresholds: countedThresholds(settings), ...(reduction && { reduction }) });
}

/** Says of memory that ran out how much is needed, and what to lower. */
async function guardMemory<T>(run: () => Promise<T>, need: ReturnType<typeof memoryNeed>, settings: RunSettings): Promise<T> {
  try {
    return await run();
  } catch (error) {
    // JavaScript has its own error for typed arrays that are too large.
    const own = error instanceof SpkvError && error.code === 'OUT_OF_MEMORY';
    if (!own && !(error instanceof RangeError && /allocation failed/.test(error.message))) throw error;
    throw outOfMemory(need, settings, own ? error.message : `JavaScript found none for an array (${(error as Error).message})`, error);
  }
}
