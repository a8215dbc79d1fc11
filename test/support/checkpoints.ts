import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseConfig, type Family } from '../../lib/checkpoint/config.js';
import { writeSafetensors, type TensorToWrite } from '../../lib/checkpoint/safetensors-write.js';
import { planTensors, weightPlan } from '../../lib/checkpoint/weights.js';
import { floatsToBf16 } from '../../lib/ops.js';
import { normals, random } from './device.js';

export type Json = Record<string, unknown>;

/** A config.json of a very small model, as transformers writes it for the family. */
export function tinyConfig(family: Family = 'llama', changes: Json = {}): Json {
  return {
    architectures: [{ llama: 'LlamaForCausalLM', mistral: 'MistralForCausalLM', qwen2: 'Qwen2ForCausalLM', qwen3: 'Qwen3ForCausalLM' }[family]],
    model_type: family,
    vocab_size: 48,
    hidden_size: 16,
    intermediate_size: 24,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    head_dim: family === 'qwen3' ? 8 : 4,
    hidden_act: 'silu',
    max_position_embeddings: 256,
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    tie_word_embeddings: false,
    torch_dtype: 'bfloat16',
    bos_token_id: 1,
    eos_token_id: 2,
    ...(family === 'mistral' && { sliding_window: null }),
    ...(family.startsWith('qwen') && { use_sliding_window: false, sliding_window: 128 }),
    ...changes,
  };
}

export const SPKV: Json = { window: 16, threshold: 0.5, predictor_hidden_size: 8, predictor_activation: 'silu' };

/** The tensors that a model of `config` reads, as BF16 zeros. */
export function tinyTensors(config: Json): TensorToWrite[] {
  const plan = weightPlan(parseConfig(config, 'config.json'));
  return planTensors(plan).map(({ name, shape }) => ({ name, dtype: 'BF16', shape, data: new Uint16Array(shape.reduce((a, b) => a * b, 1)) }));
}

/** Writes a checkpoint of `config` with random weights, matrices of deviation `scale`; gives its directory and the bf16 bits of every tensor. */
export async function writeRandomCheckpoint(dir: string, config: Json, seed = 1, scale = 0.3): Promise<{ dir: string; tensors: Map<string, Uint16Array> }> {
  mkdirSync(dir, { recursive: true });
  writeFileSync(join(dir, 'config.json'), JSON.stringify(config, null, 2));
  const uniform = random(seed);
  const tensors = tinyTensors(config).map((tensor) => {
    const size = tensor.shape.reduce((a, b) => a * b, 1);
    const values = tensor.name.includes('norm') ? Float32Array.from({ length: size }, () => 0.5 + uniform()) : normals(size, uniform, scale);
    return { ...tensor, data: floatsToBf16(values) };
  });
  await writeSafetensors(join(dir, 'model.safetensors'), tensors);
  return { dir, tensors: new Map(tensors.map(({ name, data }) => [name, data])) };
}

/** Writes a whole checkpoint of `config`, in `shards` files (1: no index). Returns its directory. */
export async function writeTinyCheckpoint(dir: string, config: Json, shards = 1): Promise<string> {
  mkdirSync(dir, { recursive: true });
  writeFileSync(join(dir, 'config.json'), JSON.stringify(config, null, 2));
  const tensors = tinyTensors(config);
  if (shards === 1) {
    await writeSafetensors(join(dir, 'model.safetensors'), tensors, { format: 'pt' });
    return dir;
  }
  const weightMap: Record<string, string> = {};
  for (let shard = 0; shard < shards; shard++) {
    const file = `model-0000${shard + 1}-of-0000${shards}.safetensors`;
    const part = tensors.filter((_, i) => i % shards === shard);
    for (const { name } of part) weightMap[name] = file;
    await writeSafetensors(join(dir, file), part);
  }
  writeFileSync(join(dir, 'model.safetensors.index.json'), JSON.stringify({ metadata: {}, weight_map: weightMap }, null, 2));
  return dir;
}
