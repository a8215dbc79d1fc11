import type { ModelConfig } from '../checkpoint/config.js';
import * as ops from '../ops.js';
import type { Device } from '../ops.js';

/**
 * Floating-point operations that training takes for one token, forward and backward, by what the model is: two per
 * weight and three times that with the backward pass, and causal attention over the whole sequence, gates or not.
 * Recomputation is not counted: it is a price, not a need.
 */
export function flopsPerToken(config: ModelConfig, sequenceLength: number): number {
  const { hiddenSize, intermediateSize, layers, heads, kvHeads, headDim, vocabSize, spkv } = config;
  const attention = hiddenSize * headDim * (2 * heads + 2 * kvHeads);
  const predictor = spkv ? spkv.predictorHiddenSize * (hiddenSize + kvHeads) : 0;
  const weights = layers * (attention + 3 * hiddenSize * intermediateSize + predictor) + vocabSize * hiddenSize;
  // Scores and their sum of values; on average half of the sequence lies before a token.
  const scores = layers * 2 * heads * headDim * (sequenceLength / 2);
  return 3 * 2 * (weights + scores);
}

/** Floating-point operations per second that a large matrix product reaches on the device, with a weight as it likes it best. */
export async function measurePeak(device: Device): Promise<number> {
  const size = device.freeMemory === null ? 512 : 8192;
  const dtype = device.precision;
  using a = device.tensor(dtype, [size, size]);
  using plain = device.tensor(dtype, [size, size]);
  using weight = ops.packWeight(plain);
  using out = device.tensor(dtype, [size, size]);
  const run = async (count: number) => {
    const before = performance.now();
    for (let i = 0; i < count; i++) ops.matmul(out, a, weight);
    await device.synchronize();
    return (performance.now() - before) / 1000 / count;
  };
  await run(2);
  let best = Infinity;
  for (let i = 0; i < 5; i++) best = Math.min(best, await run(4));
  return (2 * size ** 3) / best;
}
