/** Llama models of random weights, the same for spkv and its peers: for timing only, what they generate means nothing. */
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { elements, readCheckpoint, writeCheckpoint, type Checkpoint, type LazyTensor, type LlamaConfig } from './checkpoint.js';
import { narrow, widen, type FloatType } from './floats.js';
import { writeGguf } from './gguf.js';
import { gaussian, generator } from './random.js';

/** Where generated models are kept; ignored by git and safe to delete. */
export const CACHE = join(dirname(dirname(fileURLToPath(import.meta.url))), '.cache');

export interface RandomLlamaOptions {
  hidden: number;
  layers: number;
  heads: number;
  kvHeads: number;
  headSize: number;
  ffn: number;
  vocabulary: number;
  context: number;
  tied: boolean;
  seed: number;
  /** Share of tokens whose utility passes 0.5, in every layer and KV head. Absent: no predictors, a dense model. */
  density?: number;
  /** Hidden size of the predictors. */
  predictorHidden: number;
  window: number;
}

/** The model of the 110 M rows of the bench: 768 wide, 12 layers, 12/4 heads of 64, 16 k context. */
export const DEFAULTS: RandomLlamaOptions = {
  hidden: 768,
  layers: 12,
  heads: 12,
  kvHeads: 4,
  headSize: 64,
  ffn: 2048,
  vocabulary: 32_000,
  context: 16_384,
  tied: true,
  seed: 1,
  predictorHidden: 192,
  window: 128,
};

const WEIGHT_STD = 0.02;
/**
 * Wide enough that the token outweighs what the layers add to it. With 0.02 the deeper layers see much the same vector
 * for every token, and a utility predictor then passes nearly all of them or none.
 */
const EMBEDDING_STD = 1;
const CALIBRATION_VECTORS = 1024;

/** Directory of the checkpoint in Hugging Face layout (bf16); made on first use. */
export function randomLlama(options: Partial<RandomLlamaOptions> = {}): string {
  const full = { ...DEFAULTS, ...options };
  const directory = join(CACHE, `random-llama-${digest(full)}`);
  if (!existsSync(join(directory, 'config.json'))) writeCheckpoint(directory, randomCheckpoint(full));
  return directory;
}

/** Path of the GGUF twin of a checkpoint directory, in the cache; made on first use or when the checkpoint is newer. */
export function ggufOf(directory: string, type: FloatType): string {
  const { size, mtimeMs } = statSync(join(directory, 'model.safetensors'));
  const key = digest([resolve(directory), size, mtimeMs, readFileSync(join(directory, 'config.json'), 'utf8')]);
  const path = join(CACHE, `${basename(directory)}-${key}-${type}.gguf`);
  if (!existsSync(path)) writeGguf(path, readCheckpoint(directory), type);
  return path;
}

function digest(value: unknown): string {
  return createHash('sha256').update(JSON.stringify(value)).digest('hex').slice(0, 12);
}

/** A random model without any file, drawn tensor by tensor. Every tensor depends on the seed and its name only. */
export function randomCheckpoint(o: RandomLlamaOptions): Checkpoint {
  const tensors: LazyTensor[] = [weight('model.embed_tokens.weight', [o.vocabulary, o.hidden], o.seed, EMBEDDING_STD)];
  for (let layer = 0; layer < o.layers; layer++) tensors.push(...layerTensors(o, `model.layers.${layer}`));
  tensors.push(ones('model.norm.weight', o.hidden));
  if (!o.tied) tensors.push(weight('lm_head.weight', [o.vocabulary, o.hidden], o.seed));
  return { config: configOf(o), tensors };
}

function configOf(o: RandomLlamaOptions): LlamaConfig {
  return {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    vocab_size: o.vocabulary,
    hidden_size: o.hidden,
    intermediate_size: o.ffn,
    num_hidden_layers: o.layers,
    num_attention_heads: o.heads,
    num_key_value_heads: o.kvHeads,
    head_dim: o.headSize,
    hidden_act: 'silu',
    max_position_embeddings: o.context,
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    tie_word_embeddings: o.tied,
    attention_bias: false,
    mlp_bias: false,
    bos_token_id: 0,
    eos_token_id: 0,
    torch_dtype: 'bfloat16',
    ...(o.density !== undefined && {
      spkv: { window: o.window, threshold: 0.5, predictor_hidden_size: o.predictorHidden, predictor_activation: 'silu' },
    }),
  };
}

function layerTensors(o: RandomLlamaOptions, layer: string): LazyTensor[] {
  const attention = `${layer}.self_attn`;
  return [
    ones(`${layer}.input_layernorm.weight`, o.hidden),
    weight(`${attention}.q_proj.weight`, [o.heads * o.headSize, o.hidden], o.seed),
    weight(`${attention}.k_proj.weight`, [o.kvHeads * o.headSize, o.hidden], o.seed),
    weight(`${attention}.v_proj.weight`, [o.kvHeads * o.headSize, o.hidden], o.seed),
    weight(`${attention}.o_proj.weight`, [o.hidden, o.heads * o.headSize], o.seed),
    ones(`${layer}.post_attention_layernorm.weight`, o.hidden),
    weight(`${layer}.mlp.gate_proj.weight`, [o.ffn, o.hidden], o.seed),
    weight(`${layer}.mlp.up_proj.weight`, [o.ffn, o.hidden], o.seed),
    weight(`${layer}.mlp.down_proj.weight`, [o.hidden, o.ffn], o.seed),
    ...(o.density === undefined ? [] : predictorTensors(o, `${attention}.utility_predictor`, o.density)),
  ];
}

/**
 * A random predictor whose fc2 bias is the quantile of its logits that lets `density` of the tokens pass 0.5. The
 * logits are taken over random normalised vectors, which is what the layers of a random model see.
 */
function predictorTensors(o: RandomLlamaOptions, name: string, density: number): LazyTensor[] {
  const fc1 = weight(`${name}.fc1.weight`, [o.predictorHidden, o.hidden], o.seed, 1 / Math.sqrt(o.hidden));
  const fc2 = weight(`${name}.fc2.weight`, [o.kvHeads, o.predictorHidden], o.seed, 2 / Math.sqrt(o.predictorHidden));
  const bias = () => {
    if (density <= 0 || density >= 1) return new Float32Array(o.kvHeads).fill(density <= 0 ? -100 : 100);
    const w1 = rounded(fc1.values());
    const w2 = rounded(fc2.values());
    const next = generator(o.seed, `${name}.calibration`);
    const logits = Array.from({ length: o.kvHeads }, () => new Float64Array(CALIBRATION_VECTORS));
    for (let n = 0; n < CALIBRATION_VECTORS; n++) {
      const inner = product(w1, gaussian(next, o.hidden, 1)).map((h) => h / (1 + Math.exp(-h)));
      product(w2, inner).forEach((logit, head) => (logits[head]![n] = logit));
    }
    const rank = Math.min(CALIBRATION_VECTORS - 1, Math.round((1 - density) * CALIBRATION_VECTORS));
    return Float32Array.from(logits, (values) => -values.sort()[rank]!);
  };
  return [
    fc1,
    { name: `${name}.fc1.bias`, shape: [o.predictorHidden], values: () => new Float32Array(o.predictorHidden) },
    fc2,
    { name: `${name}.fc2.bias`, shape: [o.kvHeads], values: bias },
  ];
}

function product(matrix: Float32Array, vector: Float32Array): Float32Array {
  return Float32Array.from({ length: matrix.length / vector.length }, (_, row) => {
    let sum = 0;
    for (let i = 0, at = row * vector.length; i < vector.length; i++, at++) sum += matrix[at]! * vector[i]!;
    return sum;
  });
}

function rounded(values: Float32Array): Float32Array {
  return widen(narrow(values, 'bf16'), 'bf16');
}

function weight(name: string, shape: number[], seed: number, std = WEIGHT_STD): LazyTensor {
  return { name, shape, values: () => gaussian(generator(seed, name), elements(shape), std) };
}

function ones(name: string, length: number): LazyTensor {
  return { name, shape: [length], values: () => new Float32Array(length).fill(1) };
}
