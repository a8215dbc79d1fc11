import { loadModel } from '../../lib/index.js';
import { printTable, range } from '../harness.js';
import { quiet } from '../quiet.js';
import { llamaOnBundled, MODEL, sampleText } from './bundled.js';
import { decodeRate, prefillRate } from './rates.js';
import type { Result, Settings } from './suite.js';

const PREFILL = 3500;

/** The bundled model at τ 0.5, beside llama.cpp on the same weights. */
export async function modelSuite({ device, repeats, peer }: Settings): Promise<Result[]> {
  const model = await loadModel(MODEL, { device });
  const bytes = sampleText(PREFILL);
  const prompt = (count: number) => bytes.slice(0, count);
  const results: Result[] = [];
  const add = async (result: Result, run: () => Promise<NonNullable<Result['peer']>>) => {
    if (peer) {
      result.peer = await run();
      result.ratio = result.spkv.median / result.peer.value.median;
    }
    results.push(result);
  };

  await quiet();
  const prefill = await prefillRate(model, prompt(PREFILL), 0.5, repeats);
  await add({ work: `prefill of ${PREFILL}`, unit: 'tokens/s', spkv: prefill, target: 2 }, () => llamaOnBundled('prefill', PREFILL, 4096));
  const contexts = [[128, 2], [1024, 2.5], [PREFILL, 4]] as const;
  for (const [context, target] of contexts) {
    await quiet();
    const { tokensPerSecond, ...notes } = await decodeRate(model, prompt(context), 0.5, { repeats });
    await add({ work: `decode at ${context}`, unit: 'tokens/s', spkv: tokensPerSecond, target, notes }, () => llamaOnBundled('decode', context, 4096));
  }
  await quiet();
  const batch = await decodeRate(model, prompt(1000), 0.5, { sequences: 8, repeats });
  await add(
    { work: 'decode, 8 sequences of 1000', unit: 'tokens/s', spkv: batch.tokensPerSecond, target: 3, notes: { outsideShare: batch.outsideShare, cacheBytes: batch.cacheBytes } },
    () => llamaOnBundled('decode-batch', 1000, 1536),
  );
  for (const context of [128, PREFILL]) {
    await quiet();
    const { tokensPerSecond, ...notes } = await decodeRate(model, prompt(context), 0, { repeats });
    results.push({ work: `decode at ${context}, dense (threshold 0)`, unit: 'tokens/s', spkv: tokensPerSecond, notes });
  }
  printTable(
    `code-6m-spkv, threshold 0.5, cache ${model.cache.dtype}`,
    ['work', 'tokens/s', 'peer', 'ratio', 'to reach', 'outside native'],
    results.map(({ work, spkv, peer: other, ratio, target, notes }) => [
      work, range(spkv), other ? `${range(other.value)} ${other.name}` : '', ratio, target, notes?.['outsideShare'] as number,
    ]),
  );
  model.dispose();
  return results;
}
