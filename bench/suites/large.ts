import { loadModel, openCheckpoint } from '../../lib/index.js';
import { bestLlamaCpp, printTable, range } from '../harness.js';
import { ggufOf, randomLlama } from '../peers/random-llama.js';
import { randomTokens } from '../peers/random.js';
import { quiet } from '../quiet.js';
import { readLimit } from '../read-limit.js';
import { decodeRate, prefillRate } from './rates.js';
import type { Result, Settings } from './suite.js';

const DENSITY = 0.25;
const VOCABULARY = 32_000;

/** A random Llama of 100 M parameters whose weights do not fit the caches: decoding is bound by reading memory. */
export async function largeSuite({ device, repeats, peer }: Settings): Promise<Result[]> {
  const directory = randomLlama({ density: DENSITY });
  const model = await loadModel(directory, { device });
  const limit = await readLimit(device);
  const { config } = await openCheckpoint(directory);
  const perLayer =
    config.hiddenSize * (2 * config.heads + 2 * config.kvHeads) * config.headDim +
    3 * config.hiddenSize * config.intermediateSize +
    config.spkv!.predictorHiddenSize * config.hiddenSize;
  const weightBytes = 2 * (config.layers * perLayer + config.vocabSize * config.hiddenSize);
  const results: Result[] = [];

  await quiet();
  const prompt = randomTokens(16_000, VOCABULARY);
  results.push({ work: 'prefill of 2048', unit: 'tokens/s', spkv: await prefillRate(model, prompt.slice(0, 2048), 0.5, Math.min(3, repeats)) });
  const contexts = [[512, 1.2], [16_000, 4]] as const;
  for (const [context, target] of contexts) {
    await quiet();
    const { tokensPerSecond, outsideShare, cacheBytes } = await decodeRate(model, prompt.slice(0, context), 0.5, { newTokens: 32, repeats });
    const achieved = ((weightBytes + cacheBytes) * tokensPerSecond.median) / 1e9;
    const notes = { outsideShare, weightBytes, cacheBytes, gigabytesPerSecond: achieved, ...(limit === undefined ? {} : { readLimit: limit, shareOfReadLimit: achieved / limit }) };
    const result: Result = { work: `decode at ${context}, density ${DENSITY}`, unit: 'tokens/s', spkv: tokensPerSecond, target, notes };
    if (peer) {
      const options = { model: ggufOf(directory, 'f16'), mode: 'decode', contextSize: 16_384, promptTokens: context, newTokens: 32, repeats: 3 } as const;
      const [best] = await bestLlamaCpp(options);
      result.peer = { name: `llama.cpp f16, threads ${best.threads}`, value: best.tokensPerSecond };
      result.ratio = tokensPerSecond.median / best.tokensPerSecond.median;
    }
    results.push(result);
  }
  printTable(
    'random Llama, 768 wide, 12 layers, 12/4 heads, bf16',
    ['work', 'tokens/s', 'peer', 'ratio', 'to reach', 'of read limit'],
    results.map(({ work, spkv, peer: other, ratio, target, notes }) => [
      work, range(spkv), other ? `${range(other.value)} ${other.name}` : '', ratio, target, notes?.['shareOfReadLimit'] as number | undefined,
    ]),
  );
  model.dispose();
  return results;
}
