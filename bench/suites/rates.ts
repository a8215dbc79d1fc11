import type { TextModel } from '../../lib/index.js';
import { summarize, type Summary } from '../summary.js';

/** Tokens per second of prefilling a prompt from nothing, one sample per repeat. */
export async function prefillRate(model: TextModel, prompt: readonly number[], threshold: number, repeats: number): Promise<Summary> {
  const rates: number[] = [];
  for (let i = 0; i <= repeats; i++) {
    const sequence = await model.createSequence({ threshold });
    const start = performance.now();
    await model.prefill(sequence, prompt);
    if (i > 0) rates.push((1000 * prompt.length) / (performance.now() - start));
    await sequence.dispose();
  }
  return summarize(rates);
}

export interface DecodeRate {
  tokensPerSecond: Summary;
  /** Share of the time in which no native operation ran: binding, JavaScript and waking up. */
  outsideShare: number;
  /** Bytes of pages that all sequences hold. */
  cacheBytes: number;
}

/**
 * Tokens per second, all sequences together, of decoding `newTokens` tokens after the prompt. Each sample starts
 * from a fork of the prefilled sequence, so every sample sees the same contexts.
 */
export async function decodeRate(
  model: TextModel, prompt: readonly number[], threshold: number, { sequences = 1, newTokens = 128, repeats = 7 } = {},
): Promise<DecodeRate> {
  const origins = await Promise.all(Array.from({ length: sequences }, () => model.createSequence({ threshold })));
  for (const origin of origins) await model.prefill(origin, prompt.slice(0, -1));
  const { usedPages, pageBytes } = await model.cache.stats();
  const rates: number[] = [];
  const outside: number[] = [];
  for (let i = 0; i <= repeats; i++) {
    const copies = await Promise.all(origins.map((origin) => origin.fork()));
    const decoder = model.createDecoder(copies.map((sequence) => ({ sequence, next: prompt.at(-1)! })));
    await decoder.step(); // takes the copies on write, and warms up
    const busy = model.device.busyNanoseconds;
    const start = performance.now();
    for (let token = 0; token < newTokens; token++) await decoder.step();
    const milliseconds = performance.now() - start;
    if (i > 0) {
      rates.push((1000 * sequences * newTokens) / milliseconds);
      outside.push(1 - (model.device.busyNanoseconds - busy) / 1e6 / milliseconds);
    }
    decoder.dispose();
    await Promise.all(copies.map((copy) => copy.dispose()));
  }
  await Promise.all(origins.map((origin) => origin.dispose()));
  return { tokensPerSecond: summarize(rates), outsideShare: summarize(outside).median, cacheBytes: usedPages * pageBytes };
}
