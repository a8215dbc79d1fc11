import { calibrate } from '../../lib/benchmark/calibrate.js';
import { drawDensities } from '../../lib/benchmark/densities.js';
import { pagesNeeded } from '../../lib/benchmark/fill.js';
import { geometry, streamedWeights, THRESHOLD } from '../../lib/benchmark/geometries.js';
import { randomNetwork } from '../../lib/benchmark/random-network.js';
import type { ModelConfig } from '../../lib/checkpoint/config.js';
import { Engine, type StepRecord, TextModel } from '../../lib/index.js';
import { LlamaNetwork } from '../../lib/model/llama-network.js';
import { checkModelOptions } from '../../lib/model/load.js';
import { Sampler } from '../../lib/model/sampler.js';
import type { Device } from '../../lib/ops.js';
import { uniform } from '../../lib/random.js';
import { resolveSampling } from '../../lib/sampling-options.js';
import { printTable, shown } from '../harness.js';
import { summarize } from '../summary.js';
import type { Result, Settings } from './suite.js';

/** Texts that are read and written together. */
interface Texts {
  count: number;
  /** Tokens of each prompt. */
  prompt: number;
  /** Tokens written after each: enough for the first text to be written still when the last one has been read. */
  answer: number;
}

export interface Work {
  name: string;
  config: ModelConfig;
  /** Tokens of a prompt that are read in one step. */
  chunk: number;
  density: number;
  /** `count` of these without pruning fill the pool, or fewer where the device has less memory. */
  long: Texts;
  /** Left to activations and scratch memory. */
  spareBytes: number;
  /** A full batch, for the cost of scheduling. */
  batch: Texts;
}

const K = 1024;
/** For the 8B network on a card of 80 GB. */
const LARGE: Work = {
  name: 'llama-3-8b', config: geometry('llama-3-8b'), chunk: 2 * K, density: 0.25,
  long: { count: 8, prompt: 32 * K, answer: 768 }, spareBytes: 6 * 2 ** 30,
  batch: { count: 64, prompt: K, answer: 256 },
};
/** The same in small, for the CPU. */
const SMALL: Work = {
  name: 'llama-110m', config: geometry('llama-110m'), chunk: 256, density: 0.25,
  long: { count: 2, prompt: 2 * K, answer: 96 }, spareBytes: 0,
  batch: { count: 16, prompt: 256, answer: 48 },
};

/** How much of the pool is planned for: texts differ a little, and a piece of a prompt waits for room to keep all of it. */
const PLANNED = 0.98;
/** So many times as many texts as are written at once, one after the other in their places. */
const CHANGES = 3;
/** Steps of a full batch that are not counted: the first ones are recorded as a graph. */
const WARM_UP = 4;
/** To be reached: throughput over the dense engine's, and what scheduling may cost, as a share of a step. */
const TARGET_RATIO = 2.5;
const TARGET_COST = 0.05;

/** What pruning is worth to the engine: long texts at once in one pool and their speed; and what the engine adds to a step. */
export async function capacitySuite({ device, repeats }: Settings): Promise<Result[]> {
  const results = await capacityWork(device, device.name === 'cpu' ? SMALL : LARGE, Math.min(3, repeats), (line) => console.log(line));
  const notes = (...keys: string[]) => results.map(({ notes: all }) => keys.map((key) => all![key] as number | undefined));
  const columns = notes('together', 'measuredDensity', 'wholeTokensPerSecond', 'stepMilliseconds', 'bareMilliseconds', 'outsideShare');
  printTable(
    `Engine on ${device.description}`,
    ['work', 'unit', 'value', 'over dense', 'to reach', 'at once', 'kept', 'tokens/s with prompts', 'ms a step', 'ms bare', 'outside native'],
    results.map(({ work, unit, spkv, ratio, target }, i) => [work, unit, spkv.median, ratio, target, ...columns[i]!]),
  );
  return results;
}

/** `tell` is given what there is to say while it runs. */
export async function capacityWork(device: Device, work: Work, repeats: number, tell: (line: string) => void = () => {}): Promise<Result[]> {
  const { name, config, chunk, density, long, batch } = work;
  const model = await randomModel(device, work);
  try {
    const ids = Int32Array.from(randomPrompts(config, 1, chunk)[0]!);
    await calibrate(model.network as LlamaNetwork, model.cache, ids, drawDensities(config, density, 'beta', uniform(3)));
    return [...(await longTexts(model, name, long, tell)), ...(await engineCost(model, name, batch, repeats))];
  } finally {
    model.dispose();
  }
}

/** A model without a tokenizer over random weights, with a pool that its long texts fill without pruning. */
async function randomModel(device: Device, { config, chunk, long, spareBytes }: Work): Promise<TextModel> {
  const network = new LlamaNetwork(await randomNetwork(device, config));
  await device.synchronize();
  const everything = new Float32Array(config.layers * config.kvHeads).fill(1);
  const bytes = (texts: number) => pagesNeeded(texts, long.prompt + long.answer, everything) * device.pageBytes(config.headDim, 'bf16');
  const fitting = Math.floor(((device.freeMemory ?? Infinity) - spareBytes) / bytes(1));
  const options = checkModelOptions({ device, chunk, cacheDtype: 'bf16', kvMemory: bytes(Math.max(1, Math.min(long.count, fitting))) });
  return new TextModel({ dir: 'random weights', bytes: 2 * streamedWeights(config) }, device, network, options, undefined, undefined);
}

function randomPrompts({ vocabSize }: Pick<ModelConfig, 'vocabSize'>, count: number, length: number): number[][] {
  const next = uniform(5);
  return Array.from({ length: count }, () => Array.from({ length }, () => Math.floor(next() * vocabSize)));
}

/** As many long texts as the pool holds, pruned and dense. */
async function longTexts(model: TextModel, name: string, { prompt, answer }: Texts, tell: (line: string) => void): Promise<Result[]> {
  const { cache, config } = model;
  const poolBytes = cache.capacityPages * model.device.pageBytes(cache.headDim, cache.dtype);
  const results: Result[] = [];
  for (const threshold of [0, THRESHOLD]) {
    const one = await crowd(model, randomPrompts(config, 1, prompt), answer, threshold);
    const fitting = Math.max(1, Math.floor(((threshold === 0 ? 1 : PLANNED) * poolBytes) / one.bytes));
    const most = Math.min(fitting, Math.floor((0.9 * answer) / Math.ceil(prompt / model.chunk)));
    if (most < fitting) tell(`${fitting} texts would fit; ${most} can be read before the first has ended`);
    const all = await crowd(model, randomPrompts(config, most, prompt), answer, threshold);
    const kept = threshold === 0 ? 'everything' : `density ${shown(all.density)}`;
    const result: Result = {
      work: `${name}, texts of ${prompt} + ${answer} in ${shown(poolBytes / 2 ** 30)} GiB, ${kept}`, unit: 'tokens/s', spkv: summarize([all.rate]),
      notes: {
        together: all.together, madeRoom: all.madeRoom, measuredDensity: all.density, stepMilliseconds: all.milliseconds, outsideShare: all.outsideShare,
        wholeTokensPerSecond: all.wholeRate, wholeSeconds: all.seconds,
      },
    };
    const [dense] = results;
    if (dense) Object.assign(result, { peer: { name: 'everything kept', value: dense.spkv }, ratio: all.rate / dense.spkv.median, target: TARGET_RATIO });
    if (all.together < most || all.madeRoom > 0) tell(`${result.work}: ${all.together} of ${most} at once; ${all.madeRoom} times a text made room`);
    tell(`${result.work}: ${all.together} at once, ${shown(all.rate)} tokens/s; ${shown(all.wholeRate)} with the prompts, in ${shown(all.seconds)} s`);
    results.push(result);
  }
  return results;
}

/**
 * What the engine adds to a step of a full batch: scheduling, JavaScript, the reading of tokens, and the device's waiting for
 * all of it. Then the same where texts end at any time and others take their places.
 */
async function engineCost(model: TextModel, name: string, { count, prompt, answer }: Texts, repeats: number): Promise<Result[]> {
  const prompts = randomPrompts(model.config, count, prompt);
  const bare = await bareStep(model, prompts, answer);
  const runs: Crowd[] = [];
  for (let i = 0; i < repeats; i++) runs.push(await crowd(model, prompts, answer, THRESHOLD));
  const median = (of: (run: Crowd) => number) => summarize(runs.map(of)).median;
  const work = `${name}, ${count} texts of ${prompt}`;
  const changing = await crowd(model, randomPrompts(model.config, CHANGES * count, prompt), answer, THRESHOLD, count);
  return [
    {
      work: `${work}, writing`, unit: 'tokens/s', spkv: summarize(runs.map(({ rate }) => rate)),
      notes: { together: median(({ together }) => together), measuredDensity: median(({ density }) => density), stepMilliseconds: median(({ milliseconds }) => milliseconds), bareMilliseconds: bare },
    },
    {
      work: `${work}, what the engine adds, at most ${TARGET_COST}`, unit: 'share of a step', spkv: summarize(runs.map(({ milliseconds }) => 1 - bare / milliseconds)),
      notes: { atMost: TARGET_COST, outsideShare: median(({ outsideShare }) => outsideShare) },
    },
    {
      work: `${work} at a time of ${CHANGES * count} that come and go, writing`, unit: 'tokens/s', spkv: summarize([changing.rate]),
      notes: {
        together: changing.together, measuredDensity: changing.density, stepMilliseconds: changing.milliseconds, bareMilliseconds: bare,
        outsideShare: changing.outsideShare, wholeTokensPerSecond: changing.wholeRate,
      },
    },
  ];
}

interface Crowd {
  /** Most texts that were written in one step. */
  together: number;
  /** Times a text made room for others. */
  madeRoom: number;
  /** Of the steps that write all of them and read nothing, scheduling included. */
  milliseconds: number;
  /** Tokens per second of these steps, and the share of their time in which native code neither worked nor waited for the device. */
  rate: number;
  outsideShare: number;
  /** Tokens written per second, from the first prompt to the last answer. */
  wholeRate: number;
  seconds: number;
  density: number;
  /** Of the cache, for the first text at its end. */
  bytes: number;
}

/**
 * Has the engine answer prompts that come at once, `atOnce` at a time: where that is fewer than all, with answers from half of
 * `answer` to one and a half, so that texts end one by one. Tokens are drawn, so that what is written is as random as what is read.
 */
async function crowd(model: TextModel, prompts: readonly number[][], answer: number, threshold: number, atOnce = prompts.length): Promise<Crowd> {
  const next = uniform(9);
  const lengths = prompts.map(() => (atOnce < prompts.length ? Math.round(answer * (0.5 + next())) : answer));
  const steps: { written: number; alone: boolean; at: number; busy: number }[] = [];
  const onStep = ({ written, read }: StepRecord) => {
    steps.push({ written, alone: read === 0, at: performance.now(), busy: model.device.busyNanoseconds / 1e6 });
  };
  const engine = new Engine(model, { maxSequences: atOnce, reuse: 'none', onStep });
  const start = performance.now();
  const requests = prompts.map((prompt, i) => engine.generate(prompt, { ignoreEos: true, maxTokens: lengths[i]!, threshold, temperature: 1, seed: i }));
  const answers = await Promise.all(requests.map(({ result }) => result));
  const seconds = (performance.now() - start) / 1000;
  const { preemptions, density } = engine.stats();
  await engine.close();
  const together = Math.max(...steps.flatMap(({ written, alone }) => (alone ? [written] : [])));
  const full = steps.flatMap(({ written, alone, at, busy }, i) => {
    const before = steps[i - 1];
    return before && alone && written === together ? [{ wall: at - before.at, busy: busy - before.busy }] : [];
  }).slice(WARM_UP);
  if (full.length === 0) throw new Error(`All ${atOnce} texts were never written at a time: the first had ended before the last was read`);
  const total = (of: 'wall' | 'busy') => full.reduce((sum, step) => sum + step[of], 0);
  return {
    together, madeRoom: preemptions.saved + preemptions.dropped, milliseconds: total('wall') / full.length,
    rate: (1000 * together * full.length) / total('wall'), outsideShare: 1 - total('busy') / total('wall'),
    wholeRate: lengths.reduce((sum, length) => sum + length, 0) / seconds, seconds, density, bytes: answers[0]!.choices[0]!.cache.bytes,
  };
}

/** Milliseconds of a step of the same texts that nobody schedules and whose tokens nobody reads: the device never waits. */
async function bareStep(model: TextModel, prompts: readonly number[][], steps: number): Promise<number> {
  const { device, network, cache, config: { vocabSize } } = model;
  const count = prompts.length;
  const sequences = await Promise.all(prompts.map(() => model.createSequence({ threshold: THRESHOLD })));
  for (const [i, sequence] of sequences.entries()) await model.prefill(sequence, prompts[i]!);
  const memory = network.createMemory(count);
  const step = memory.take(count);
  step.ids.write(Int32Array.from(prompts, (prompt) => prompt.at(-1)!));
  using slots = device.from(Int32Array.from(sequences, ({ slot }) => slot));
  using offsets = device.from(Int32Array.from({ length: count + 1 }, (_, row) => row));
  using logits = device.tensor('f32', [count, vocabSize]);
  const sampler = new Sampler(device, sequences.map((_, seed) => resolveSampling({ temperature: 1, seed })), vocabSize);
  using graph = device.capture(() => {
    step.forward(cache, { slots, offsets, logits });
    sampler.sample(step.ids, logits, step.positions);
  });
  const launch = async (times: number) => {
    const start = performance.now();
    for (let i = 0; i < times; i++) graph.launch();
    await device.synchronize();
    return (performance.now() - start) / times;
  };
  await launch(WARM_UP);
  const milliseconds = await launch(steps);
  await Promise.all(sequences.map((sequence) => sequence.dispose()));
  sampler.dispose();
  memory.dispose();
  return milliseconds;
}
