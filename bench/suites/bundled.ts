/** The bundled model and its text, for spkv and for llama.cpp. */
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { bestLlamaCpp } from '../harness.js';
import { readCheckpoint } from '../peers/checkpoint.js';
import { writeGguf } from '../peers/gguf.js';
import { CACHE } from '../peers/random-llama.js';
import type { Result } from './suite.js';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
export const MODEL = join(ROOT, 'models/code-6m-spkv');
const TEXT = join(ROOT, 'models/sample.py');

/** The bytes of a Python file: the model's tokens. */
export function sampleText(least: number): number[] {
  const bytes = [...readFileSync(TEXT)];
  if (bytes.length < least) throw new Error(`Expected at least ${least} bytes in ${TEXT}`);
  return bytes;
}

/** What llama.cpp reaches on the same weights and text, with the best of its settings. */
export async function llamaOnBundled(mode: 'prefill' | 'decode' | 'decode-batch', promptTokens: number, contextSize: number): Promise<NonNullable<Result['peer']>> {
  const models = ggufFiles();
  const options = { model: models[0]!, mode, promptTokens, contextSize, promptFile: TEXT, repeats: 3 } as const;
  const [best] = await bestLlamaCpp(options, { models, processes: 2 });
  return { name: `llama.cpp ${best.model}, threads ${best.threads}`, value: best.tokensPerSecond };
}

/** The weights in the element types that llama.cpp may run fastest in; made anew each time, lest they be those of an earlier model. */
function ggufFiles(): string[] {
  mkdirSync(CACHE, { recursive: true });
  return (['bf16', 'f16'] as const).map((type) => {
    const path = join(CACHE, `code-6m-${type}.gguf`);
    writeGguf(path, readCheckpoint(MODEL), type);
    return path;
  });
}
