import { join } from 'node:path';
import { writeSafetensors } from '../../lib/checkpoint/safetensors-write.js';
import { type Device, loadModel, type ModelOptions, type Request, type RequestOptions, type TextModel } from '../../lib/index.js';
import { SPKV, tinyConfig, tinyTensors, writeRandomCheckpoint, type Json } from './checkpoints.js';

/** The end-of-text token of the tiny models, and the last of their tokens. */
const EOS = 47;

interface TinyOptions extends ModelOptions {
  device: Device;
  /** Size of the pool. */
  pages?: number;
}

/** A very small random model that reads 32 tokens at a time. With `poison`, that token's embedding is NaN; it is hardly ever drawn. */
export async function tinyModel(root: string, { pages = 4000, ...options }: TinyOptions, changes: Json = {}, seed = 1, poison?: number): Promise<TextModel> {
  const config = tinyConfig('llama', { spkv: SPKV, eos_token_id: EOS, ...changes });
  const { dir, tensors } = await writeRandomCheckpoint(join(root, `tiny-${seed}`), config, seed);
  if (poison !== undefined) {
    const width = config['hidden_size'] as number;
    tensors.get('model.embed_tokens.weight')!.fill(0x7fc0, poison * width, (poison + 1) * width);
    tensors.get('lm_head.weight')!.fill(0, poison * width, (poison + 1) * width);
    await writeSafetensors(join(dir, 'model.safetensors'), tinyTensors(config).map((tensor) => ({ ...tensor, data: tensors.get(tensor.name)! })));
  }
  const pageBytes = options.device.pageBytes(config['head_dim'] as number, 'bf16');
  return loadModel(dir, { chunk: 32, kvMemory: pages * pageBytes, ...options });
}

/** The tokens of each text of a request when nothing else is there: what `model.generate` writes. */
export async function alone(model: TextModel, prompt: readonly number[], options: RequestOptions): Promise<number[][]> {
  const { n = 1, logprobs: _, kept: __, priority: ___, client: ____, deadline: _____, signal: ______, ...answer } = options;
  const texts: number[][] = [];
  for (let i = 0; i < n; i++) {
    const generation = model.generate(prompt, { ...answer, seed: (answer.seed ?? 0) + i });
    await generation.text();
    texts.push((await generation.result).ids);
  }
  return texts;
}

/** Waits until a request has written its first token. So much of it is read, and the rest waits. */
export async function begun(request: Request): Promise<void> {
  await request[Symbol.asyncIterator]().next();
}

/**
 * Waits until `condition` holds, for as long as a test may. It is looked at now and then, so it must be one that goes on
 * to hold: what lasts for some steps only may have passed when the machine comes back to it.
 */
export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 1));
}

/** Expects that nobody holds memory of a model's cache. */
export async function expectFree(model: TextModel): Promise<void> {
  expect(await model.cache.stats()).toMatchObject({ usedPages: 0, sequences: 0 });
}
