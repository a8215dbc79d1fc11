import { Engine, loadModel, type RequestOptions, type StepRecord, type TextModel } from '../../lib/index.js';
import { printTable, range } from '../harness.js';
import { quiet } from '../quiet.js';
import { summarize, type Summary } from '../summary.js';
import { llamaOnBundled, MODEL, sampleText } from './bundled.js';
import type { Result, Settings } from './suite.js';

/** Prompts of the capacity figure, and the pool that they share. */
const LONG = 3000;
const POOL = 64 << 20;
const NEW_TOKENS = 128;

/** The bundled model with many requests at once. */
export async function engineSuite({ device, repeats, peer }: Settings): Promise<Result[]> {
  const results: Result[] = [];
  for (const threshold of [0.5, 0]) {
    const small = await loadModel(MODEL, { device, kvMemory: POOL });
    const texts = await capacity(small, threshold);
    results.push({ work: `${LONG}-token texts at once in 64 MiB, threshold ${threshold}`, unit: 'texts', spkv: summarize([texts]) });
    small.dispose();
  }
  const model = await loadModel(MODEL, { device });
  for (const threshold of [0.5, 0]) {
    for (const clients of [1, 8, 32]) {
      await quiet();
      const { rate, firstToken } = await load(model, clients, threshold, Math.min(3, repeats));
      const notes = { firstTokenMilliseconds: firstToken.median };
      results.push({ work: `${clients} clients, 1000 + ${NEW_TOKENS} tokens, threshold ${threshold}`, unit: 'tokens/s', spkv: rate, notes });
    }
  }
  for (const texts of [8, 64]) {
    await quiet();
    const { rate, outsideShare } = await writing(model, texts, repeats);
    const result: Result = { work: `writing ${texts} texts of 1000`, unit: 'tokens/s', spkv: rate, notes: { outsideShare } };
    if (texts === 8) result.target = 3;
    if (texts === 8 && peer) {
      result.peer = await llamaOnBundled('decode-batch', 1000, 1536);
      result.ratio = rate.median / result.peer.value.median;
    }
    results.push(result);
  }
  printTable(
    `Engine, code-6m-spkv, cache ${model.cache.dtype}`,
    ['work', 'unit', 'spkv', 'peer', 'ratio', 'to reach', 'outside native', 'first token, ms'],
    results.map(({ work, unit, spkv, peer: other, ratio, target, notes }) => [
      work, unit, range(spkv), other ? `${range(other.value)} ${other.name}` : '', ratio, target, notes?.['outsideShare'] as number,
      notes?.['firstTokenMilliseconds'] as number,
    ]),
  );
  model.dispose();
  return results;
}

/** Prompts that have nothing in common at their beginnings. */
function prompts(count: number, length: number): number[][] {
  const bytes = sampleText(length);
  return Array.from({ length: count }, (_, i) => Array.from({ length }, (_, j) => bytes[(i * 97 + j) % bytes.length]!));
}

const WRITE: RequestOptions = { ignoreEos: true, maxTokens: NEW_TOKENS };

/** How many long texts the pool lets run at once: all of them read, none made room. */
async function capacity(model: TextModel, threshold: number): Promise<number> {
  let most = 0;
  const engine = new Engine(model, { maxSequences: 64, reuse: 'none', onStep: ({ written }) => (most = Math.max(most, written)) });
  const all = prompts(24, LONG).map((prompt) => engine.generate(prompt, { ...WRITE, maxTokens: 400, threshold }));
  await Promise.all(all.map(({ result }) => result));
  const { saved, dropped } = engine.stats().preemptions;
  await engine.close();
  if (saved + dropped > 0) console.log(`threshold ${threshold}: ${saved + dropped} times a text made room`);
  return most;
}

/** Clients that ask again as soon as they are answered: tokens per second, prompts included in the time. */
async function load(model: TextModel, clients: number, threshold: number, repeats: number): Promise<{ rate: Summary; firstToken: Summary }> {
  const rates: number[] = [];
  const waits: number[] = [];
  for (let i = 0; i <= repeats; i++) {
    const engine = new Engine(model, { maxSequences: 32, reuse: 'none' });
    const start = performance.now();
    const rounds = clients === 1 ? 4 : 2;
    const asked = prompts(clients * rounds, 1000);
    const client = async (number: number) => {
      for (let round = 0; round < rounds; round++) {
        const { timing } = await engine.generate(asked[number * rounds + round]!, { ...WRITE, threshold }).result;
        if (i > 0) waits.push(timing.firstTokenAfter!);
      }
    };
    await Promise.all(Array.from({ length: clients }, (_, number) => client(number)));
    if (i > 0) rates.push((1000 * clients * rounds * NEW_TOKENS) / (performance.now() - start));
    await engine.close();
  }
  return { rate: summarize(rates), firstToken: summarize(waits) };
}

/** Tokens per second of the steps in which all texts are being written, and the share of their time that is not the device's. */
async function writing(model: TextModel, texts: number, repeats: number): Promise<{ rate: Summary; outsideShare: number }> {
  const rates: number[] = [];
  const outside: number[] = [];
  for (let i = 0; i <= repeats; i++) {
    const steps: { at: number; busy: number }[] = [];
    const onStep = ({ written, read }: StepRecord) => {
      if (written === texts && read === 0) steps.push({ at: performance.now(), busy: model.device.busyNanoseconds / 1e6 });
    };
    const engine = new Engine(model, { maxSequences: texts, reuse: 'none', onStep });
    // Those that were read first write while the others are read.
    const all = prompts(texts, 1000).map((prompt) => engine.generate(prompt, { ...WRITE, maxTokens: NEW_TOKENS + 2 * texts }));
    await Promise.all(all.map(({ result }) => result));
    await engine.close();
    const [first, last] = [steps[0]!, steps.at(-1)!];
    if (i === 0) continue;
    rates.push((1000 * texts * (steps.length - 1)) / (last.at - first.at));
    outside.push(1 - (last.busy - first.busy) / (last.at - first.at));
  }
  return { rate: summarize(rates), outsideShare: summarize(outside).median };
}
