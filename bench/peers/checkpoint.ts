import { closeSync, mkdirSync, openSync, readFileSync, readSync, renameSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { BYTES, narrow, widen } from './floats.js';

/** The fields of a Hugging Face Llama `config.json` that the bench uses. */
export interface LlamaConfig {
  model_type: string;
  vocab_size: number;
  hidden_size: number;
  intermediate_size: number;
  num_hidden_layers: number;
  num_attention_heads: number;
  num_key_value_heads: number;
  head_dim?: number;
  max_position_embeddings: number;
  rms_norm_eps: number;
  rope_theta?: number;
  rope_scaling?: unknown;
  tie_word_embeddings?: boolean;
  bos_token_id?: number | null;
  eos_token_id?: number | null;
  [other: string]: unknown;
}

/** A tensor whose values are read or drawn only when asked for, so that a big model is never held whole. */
export interface LazyTensor {
  readonly name: string;
  readonly shape: readonly number[];
  values(): Float32Array;
}

export interface Checkpoint {
  readonly config: LlamaConfig;
  readonly tensors: readonly LazyTensor[];
  /** Token strings by id; absent for a checkpoint without a tokenizer. */
  readonly vocabulary?: readonly string[];
}

/** Reads a directory with `config.json`, `model.safetensors` (f32 or bf16) and, if there is one, `tokenizer.json`. */
export function readCheckpoint(directory: string): Checkpoint {
  const config = JSON.parse(readFileSync(join(directory, 'config.json'), 'utf8')) as LlamaConfig;
  const tensors = readSafetensors(join(directory, 'model.safetensors'));
  const vocabulary = readVocabulary(join(directory, 'tokenizer.json'));
  return { config, tensors, ...(vocabulary && { vocabulary }) };
}

/** Writes `config.json` and `model.safetensors` in bf16; the rename at the end keeps half-written models from being used. */
export function writeCheckpoint(directory: string, { config, tensors }: Checkpoint): void {
  mkdirSync(directory, { recursive: true });
  const header: Record<string, unknown> = { __metadata__: { format: 'pt' } };
  let end = 0;
  for (const { name, shape } of tensors) {
    const begin = end;
    end += elements(shape) * BYTES.bf16;
    header[name] = { dtype: 'BF16', shape, data_offsets: [begin, end] };
  }
  const json = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  const padding = Buffer.alloc(-json.length & 7, ' ');
  length.writeBigUInt64LE(BigInt(json.length + padding.length));
  const path = join(directory, 'model.safetensors');
  writeParts(path, function* () {
    yield Buffer.concat([length, json, padding]);
    for (const tensor of tensors) yield narrow(tensor.values(), 'bf16');
  });
  writeFileSync(join(directory, 'config.json'), `${JSON.stringify(config, null, 2)}\n`);
}

/** Writes the parts one after another to a file that appears under its name only when it is complete. */
export function writeParts(path: string, parts: () => Iterable<Uint8Array>): void {
  const partial = `${path}.partial-${process.pid}`;
  const file = openSync(partial, 'w');
  try {
    for (const part of parts()) {
      for (let offset = 0; offset < part.length; ) offset += writeSync(file, part, offset);
    }
  } finally {
    closeSync(file);
  }
  renameSync(partial, path);
}

export function elements(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

interface SafetensorsEntry {
  dtype: string;
  shape: number[];
  data_offsets: [number, number];
}

function readSafetensors(path: string): LazyTensor[] {
  const headerLength = Number(Buffer.from(readAt(path, 0, 8).buffer).readBigUInt64LE());
  const header = JSON.parse(Buffer.from(readAt(path, 8, headerLength)).toString('utf8')) as Record<string, SafetensorsEntry>;
  return Object.entries(header)
    .filter(([name]) => name !== '__metadata__')
    .map(([name, { dtype, shape, data_offsets: [begin, end] }]) => ({
      name,
      shape,
      values() {
        const type = dtype.toLowerCase();
        if (type !== 'f32' && type !== 'bf16') throw new Error(`Expected F32 or BF16 for tensor ${name} but received ${dtype}`);
        return widen(readAt(path, 8 + headerLength + begin, end - begin), type);
      },
    }));
}

function readAt(path: string, position: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  const file = openSync(path, 'r');
  try {
    for (let offset = 0; offset < length; ) {
      const count = readSync(file, bytes, offset, length - offset, position + offset);
      if (count === 0) throw new Error(`The file ${path} is shorter than its header says`);
      offset += count;
    }
  } finally {
    closeSync(file);
  }
  return bytes;
}

function readVocabulary(path: string): string[] | undefined {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
  const { model, added_tokens = [] } = JSON.parse(text) as {
    model: { vocab: Record<string, number> };
    added_tokens?: { id: number; content: string }[];
  };
  const vocabulary: string[] = [];
  for (const [token, id] of Object.entries(model.vocab)) vocabulary[id] = token;
  for (const { id, content } of added_tokens) vocabulary[id] = content;
  return vocabulary;
}
