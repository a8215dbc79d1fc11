import type { ModelConfig } from '../../lib/checkpoint/config.js';
import { type Device, openDevice } from '../../lib/ops.js';
import { uniform } from '../../lib/random.js';
import { flopsPerToken } from '../../lib/train/flops.js';
import { Parameters } from '../../lib/train/parameters.js';
import { type Batch, TrainingStep, type TrainingMode } from '../../lib/train/step.js';
import { printTable, shown } from '../harness.js';
import { summarize } from '../summary.js';
import type { Result, Settings } from './suite.js';

export interface Work {
  name: string;
  config: ModelConfig;
  sequences: number;
  length: number;
}

const COMMON = {
  family: 'llama', rmsNormEps: 1e-5, ropeTheta: 10_000, ropeScaling: { type: 'default' }, maxPositions: 4096, tieWordEmbeddings: true,
  attentionBias: { qkv: false, out: false }, mlpBias: false, qkNorm: false, bosTokenId: undefined, eosTokenIds: [], dtype: 'BF16',
} as const;
const spkv = (predictorHiddenSize: number) => ({ window: 128, threshold: 0.5, predictorHiddenSize, predictorActivation: 'silu' }) as const;

/** The bundled model, and one of a billion parameters. */
const SMALL: ModelConfig = {
  ...COMMON, hiddenSize: 256, intermediateSize: 704, layers: 8, heads: 4, kvHeads: 2, headDim: 64, vocabSize: 320, spkv: spkv(64),
};
const LARGE: ModelConfig = {
  ...COMMON, hiddenSize: 2048, intermediateSize: 8192, layers: 16, heads: 32, kvHeads: 8, headDim: 64, vocabSize: 32_000, spkv: spkv(512),
};

/** A dense model has no predictors: nothing of them is computed. */
const MODES: { label: string; mode: TrainingMode; dense: boolean }[] = [
  { label: 'dense', mode: 'dense', dense: true },
  { label: 'soft', mode: 'soft', dense: false },
  { label: 'hard', mode: { alpha: 1, threshold: 0.5 }, dense: false },
];
/** The predictors' last bias for mode hard, where gates are to be open and closed alike. */
const HALF_OPEN = 0;

/** Whole training steps: forward, backward and update, with random weights and tokens. */
export async function trainingSuite({ device: given, repeats }: Settings): Promise<Result[]> {
  using timing = given.name === 'cpu' ? null : openDevice(given.name, { timeProducts: true }); // as `train` does
  const device = timing ?? given;
  const works: Work[] =
    device.name === 'cpu'
      ? [{ name: '6 M', config: SMALL, sequences: 2, length: 1024 }]
      : [{ name: '6 M', config: SMALL, sequences: 32, length: 4096 }, { name: '1.06 B', config: LARGE, sequences: 4, length: 4096 }];
  const results: Result[] = [];
  for (const work of works) {
    for (const result of await trainingWork(device, work, repeats)) {
      results.push(result);
      console.log(`${result.work}: ${shown(result.spkv.median)} tokens/s`);
    }
  }
  printTable(
    `Training steps on ${device.description}`,
    ['work', 'tokens/s', 'ms a step', 'TFLOP/s'],
    results.map(({ work, spkv: rate, notes }) => [work, rate.median, notes!['milliseconds'] as number, notes!['teraflops'] as number]),
  );
  return results;
}

/** Steps of one work in every mode. */
export async function trainingWork(device: Device, work: Work, repeats: number): Promise<Result[]> {
  const results: Result[] = [];
  for (const mode of MODES) results.push(await trainingSteps(device, work, mode, repeats));
  return results;
}

async function trainingSteps(device: Device, work: Work, { label, mode, dense }: (typeof MODES)[number], repeats: number): Promise<Result> {
  const { name, sequences, length } = work;
  const config = dense ? { ...work.config, spkv: undefined } : work.config;
  const tokens = sequences * length;
  using parameters = await Parameters.random(device, config, 1);
  if (label === 'hard') setGates(parameters, HALF_OPEN);
  using step = new TrainingStep(parameters, { tokens });
  const batch = randomBatch(config.vocabSize, sequences, length);
  const rates: number[] = [];
  for (let i = 0; i < 2 + repeats; i++) {
    const start = performance.now();
    await step.accumulate(batch, mode);
    await step.update({ learningRate: 1e-5 });
    if (i >= 2) rates.push((1000 * tokens) / (performance.now() - start));
  }
  const rate = summarize(rates);
  const milliseconds = (1000 * tokens) / rate.median;
  return {
    work: `${name}, ${sequences} x ${length}, ${label}`, unit: 'tokens/s', spkv: rate,
    notes: { milliseconds, teraflops: (flopsPerToken(config, length) * rate.median) / 1e12, parameters: parameters.count },
  };
}

function setGates(parameters: Parameters, bias: number): void {
  for (const { predictor } of parameters.weights.layers) {
    predictor?.bias.write(new Float32Array(predictor.bias.size).fill(bias));
  }
}

function randomBatch(vocabSize: number, sequences: number, length: number): Batch {
  const next = uniform(7);
  const draw = () => Int32Array.from({ length: sequences * length }, () => Math.floor(next() * vocabSize));
  return { ids: draw(), targets: draw(), offsets: Int32Array.from({ length: sequences + 1 }, (_, b) => b * length) };
}
