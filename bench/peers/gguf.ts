/**
 * Converts a Hugging Face Llama checkpoint to GGUF, the format of llama.cpp, so that a peer runs the weights that spkv
 * runs. Command line: tsx bench/peers/gguf.ts <checkpoint directory> <output.gguf> [f32|f16|bf16]
 */
import { mkdirSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { elements, readCheckpoint, writeParts, type Checkpoint, type LazyTensor, type LlamaConfig } from './checkpoint.js';
import { BYTES, narrow, type FloatType } from './floats.js';

const ALIGNMENT = 32;
const TENSOR_TYPES: Record<FloatType, number> = { f32: 0, f16: 1, bf16: 30 };
const FILE_TYPES: Record<FloatType, number> = { f32: 0, f16: 1, bf16: 32 };
const NORMAL_TOKEN = 1;

/** Writes `checkpoint` to `path`. One-dimensional tensors stay f32; SP-KV's utility predictors are left out. */
export function writeGguf(path: string, checkpoint: Checkpoint, type: FloatType): void {
  const { config } = checkpoint;
  requirePlainLlama(config);
  const tensors = checkpoint.tensors
    .filter(({ name }) => !name.includes('.utility_predictor.'))
    .map((tensor) => ({ tensor: renamed(tensor, config), type: tensor.shape.length === 1 ? ('f32' as const) : type }));

  mkdirSync(dirname(path), { recursive: true });
  writeParts(path, function* () {
    const header = new Bytes();
    header.text('GGUF').u32(3).u64(tensors.length);
    writeMetadata(header, checkpoint, type);
    let offset = 0;
    for (const { tensor, type } of tensors) {
      header.string(tensor.name).u32(tensor.shape.length);
      for (const size of tensor.shape.toReversed()) header.u64(size);
      header.u32(TENSOR_TYPES[type]).u64(offset);
      offset += padded(elements(tensor.shape) * BYTES[type]);
    }
    yield header.finish();
    for (const { tensor, type } of tensors) {
      const bytes = narrow(tensor.values(), type);
      yield bytes;
      yield new Uint8Array(padded(bytes.length) - bytes.length);
    }
  });
}

function padded(length: number): number {
  return Math.ceil(length / ALIGNMENT) * ALIGNMENT;
}

function requirePlainLlama(config: LlamaConfig): void {
  if (config.model_type !== 'llama') throw new Error(`Expected a model of type llama but received ${config.model_type}`);
  if (config.rope_scaling) throw new Error('The GGUF converter of the bench does not know RoPE scaling');
}

function writeMetadata(header: Bytes, { config, vocabulary }: Checkpoint, type: FloatType): void {
  const headSize = config.head_dim ?? config.hidden_size / config.num_attention_heads;
  const tokens = Array.from({ length: config.vocab_size }, (_, id) => vocabulary?.[id] ?? placeholder(id));
  const entries: [key: string, kind: 'u32' | 'f32' | 'bool' | 'string', value: number | boolean | string][] = [
    ['general.architecture', 'string', 'llama'],
    ['general.name', 'string', 'converted'],
    ['general.file_type', 'u32', FILE_TYPES[type]],
    ['general.alignment', 'u32', ALIGNMENT],
    ['llama.vocab_size', 'u32', config.vocab_size],
    ['llama.context_length', 'u32', config.max_position_embeddings],
    ['llama.embedding_length', 'u32', config.hidden_size],
    ['llama.block_count', 'u32', config.num_hidden_layers],
    ['llama.feed_forward_length', 'u32', config.intermediate_size],
    ['llama.attention.head_count', 'u32', config.num_attention_heads],
    ['llama.attention.head_count_kv', 'u32', config.num_key_value_heads],
    ['llama.attention.key_length', 'u32', headSize],
    ['llama.attention.value_length', 'u32', headSize],
    ['llama.attention.layer_norm_rms_epsilon', 'f32', config.rms_norm_eps],
    ['llama.rope.dimension_count', 'u32', headSize],
    ['llama.rope.freq_base', 'f32', config.rope_theta ?? 10000],
    ['tokenizer.ggml.model', 'string', 'gpt2'],
    ['tokenizer.ggml.pre', 'string', 'gpt-2'],
    ['tokenizer.ggml.bos_token_id', 'u32', config.bos_token_id ?? 0],
    ['tokenizer.ggml.eos_token_id', 'u32', config.eos_token_id ?? 0],
    ['tokenizer.ggml.add_bos_token', 'bool', false],
  ];
  header.u64(entries.length + 3);
  for (const [key, kind, value] of entries) {
    header.string(key);
    if (kind === 'u32') header.u32(4).u32(value as number);
    else if (kind === 'f32') header.u32(6).f32(value as number);
    else if (kind === 'bool') header.u32(7).u8(value ? 1 : 0);
    else header.u32(8).string(value as string);
  }
  header.string('tokenizer.ggml.tokens').u32(9).u32(8).u64(tokens.length);
  for (const token of tokens) header.string(token);
  header.string('tokenizer.ggml.token_type').u32(9).u32(5).u64(tokens.length);
  for (let id = 0; id < tokens.length; id++) header.u32(NORMAL_TOKEN);
  header.string('tokenizer.ggml.merges').u32(9).u32(8).u64(0); // every token is reached by its bytes alone
}

/** Stands in for a token of a checkpoint without a tokenizer: GPT-2's character for each byte, then made-up words. */
function placeholder(id: number): string {
  if (id >= 256) return `token${id}`;
  const printable = (byte: number) => (byte > 32 && byte < 127) || (byte > 160 && byte < 256 && byte !== 173);
  if (printable(id)) return String.fromCodePoint(id);
  const before = Array.from({ length: id }, (_, byte) => byte).filter((byte) => !printable(byte)).length;
  return String.fromCodePoint(256 + before);
}

const NAMES: Record<string, string> = {
  'model.embed_tokens.weight': 'token_embd.weight',
  'model.norm.weight': 'output_norm.weight',
  'lm_head.weight': 'output.weight',
};
const LAYER_NAMES: Record<string, string> = {
  input_layernorm: 'attn_norm',
  'self_attn.q_proj': 'attn_q',
  'self_attn.k_proj': 'attn_k',
  'self_attn.v_proj': 'attn_v',
  'self_attn.o_proj': 'attn_output',
  post_attention_layernorm: 'ffn_norm',
  'mlp.gate_proj': 'ffn_gate',
  'mlp.up_proj': 'ffn_up',
  'mlp.down_proj': 'ffn_down',
};

function renamed(tensor: LazyTensor, config: LlamaConfig): LazyTensor {
  const fixed = NAMES[tensor.name];
  if (fixed) return { ...tensor, name: fixed, values: () => tensor.values() };
  const [, layer, part, kind] = /^model\.layers\.(\d+)\.(.+)\.(weight|bias)$/.exec(tensor.name) ?? [];
  const name = part && LAYER_NAMES[part];
  if (!name) throw new Error(`The GGUF converter of the bench does not know the tensor ${tensor.name}`);
  const heads = { attn_q: config.num_attention_heads, attn_k: config.num_key_value_heads }[name];
  const values = () => (heads ? interleaved(tensor.values(), heads, tensor.shape[0]! / heads) : tensor.values());
  return { name: `blk.${layer}.${name}.${kind}`, shape: tensor.shape, values };
}

/** Reorders the rows of each head from RoPE's half-rotation layout (i, i + D/2) to llama.cpp's pairs (2i, 2i + 1). */
function interleaved(values: Float32Array, heads: number, headSize: number): Float32Array {
  const width = values.length / (heads * headSize);
  const out = new Float32Array(values.length);
  for (let row = 0; row < heads * headSize; row++) {
    const [head, i] = [Math.floor(row / headSize), row % headSize];
    const from = head * headSize + (i % 2) * (headSize / 2) + Math.floor(i / 2);
    out.set(values.subarray(from * width, (from + 1) * width), row * width);
  }
  return out;
}

/** A growing little-endian buffer. */
class Bytes {
  #buffer = Buffer.alloc(1 << 16);
  #length = 0;

  u8(value: number): this {
    this.#length = this.#room(1).writeUInt8(value, this.#length);
    return this;
  }
  u32(value: number): this {
    this.#length = this.#room(4).writeUInt32LE(value, this.#length);
    return this;
  }
  u64(value: number): this {
    this.#length = this.#room(8).writeBigUInt64LE(BigInt(value), this.#length);
    return this;
  }
  f32(value: number): this {
    this.#length = this.#room(4).writeFloatLE(value, this.#length);
    return this;
  }
  text(value: string): this {
    this.#length += this.#room(Buffer.byteLength(value)).write(value, this.#length);
    return this;
  }
  string(value: string): this {
    return this.u64(Buffer.byteLength(value)).text(value);
  }
  finish(): Uint8Array {
    return this.#room(ALIGNMENT).fill(0, this.#length).subarray(0, padded(this.#length));
  }

  #room(bytes: number): Buffer {
    while (this.#length + bytes > this.#buffer.length) this.#buffer = Buffer.concat([this.#buffer, Buffer.alloc(this.#buffer.length)]);
    return this.#buffer;
  }
}

if (process.argv[1] && resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const [directory, output, type = 'f16'] = process.argv.slice(2);
  if (!directory || !output || !(type in TENSOR_TYPES)) {
    console.error('Usage: tsx bench/peers/gguf.ts <checkpoint directory> <output.gguf> [f32|f16|bf16]');
    process.exit(2);
  }
  writeGguf(output, readCheckpoint(directory), type as FloatType);
}
