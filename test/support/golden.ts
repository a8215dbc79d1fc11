import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { fileURLToPath } from 'node:url';
import { readSafetensorsHeader } from '../../lib/checkpoint/safetensors.js';

/**
 * Data made by an independent PyTorch implementation in float64 on the weights of MODEL_DIR:
 * logits and utilities of two texts of 640 tokens, 64 greedy tokens, and the loss and gradients of soft mode.
 */
export async function golden(): Promise<{ names: string[]; floats(name: string): Float32Array; ints(name: string): Int32Array }> {
  const path = fileURLToPath(new URL('../data/golden.safetensors', import.meta.url));
  const { tensors } = await readSafetensorsHeader(path);
  const file = readFileSync(path);
  const bytes = (name: string) => {
    const { offset, bytes: length } = tensors.get(name)!;
    return new Uint8Array(file.subarray(offset, offset + length)).buffer;
  };
  return { names: [...tensors.keys()], floats: (name) => new Float32Array(bytes(name)), ints: (name) => new Int32Array(bytes(name)) };
}

/**
 * The checkpoint on whose weights the golden data was made; test/data/README.md tells of both. Tests that hold numbers or
 * texts of a model load this one: the bundled model may be trained anew.
 */
export const MODEL_DIR = fileURLToPath(new URL('../data/code-6m-golden', import.meta.url));
/** What the server calls it. */
export const MODEL_NAME = basename(MODEL_DIR);
