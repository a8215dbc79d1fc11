import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Family } from '../../lib/checkpoint/config.js';
import { writeSafetensors } from '../../lib/checkpoint/safetensors-write.js';
import { bf16ToFloats, floatsToBf16 } from '../../lib/ops.js';
import { loadModel } from '../../lib/index.js';
import { type Json, SPKV, tinyConfig, tinyTensors, writeRandomCheckpoint } from '../support/checkpoints.js';
import { maxDifference, random, testDevice } from '../support/device.js';
import { temporaryDirectory } from '../support/files.js';
import { onnxLayer } from '../support/onnx-oracle.js';
import { closeOnnx } from '../support/onnx-session.js';

afterAll(closeOnnx);
const root = temporaryDirectory();
const device = testDevice();
const T = 90;

const CASES: [name: string, family: Family, changes: Json][] = [
  ['Llama', 'llama', {}],
  ['Llama with tied embeddings', 'llama', { tie_word_embeddings: true }],
  ['Llama 3.1 with scaled RoPE', 'llama', {
    rope_theta: 500000,
    rope_scaling: { rope_type: 'llama3', factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 32 },
  }],
  ['Llama with linearly scaled RoPE', 'llama', { rope_scaling: { rope_type: 'linear', factor: 4 } }],
  ['Mistral', 'mistral', {}],
  ['Qwen2 with biases', 'qwen2', { head_dim: 8, num_attention_heads: 2, num_key_value_heads: 1 }],
  ['Qwen3 with q/k norm', 'qwen3', { tie_word_embeddings: true }],
];

/** RoPE frequencies by the published formulas, written apart from lib/model/rope.ts. */
function frequencies(config: Json): number[] {
  const size = config['head_dim'] as number;
  const scaling = config['rope_scaling'] as Record<string, number | string> | undefined;
  return Array.from({ length: size / 2 }, (_, i) => {
    const frequency = 1 / (config['rope_theta'] as number) ** ((2 * i) / size);
    if (scaling?.['rope_type'] === 'linear') return frequency / (scaling['factor'] as number);
    if (scaling?.['rope_type'] !== 'llama3') return frequency;
    const [factor, low, high, original] = ['factor', 'low_freq_factor', 'high_freq_factor', 'original_max_position_embeddings'].map((name) => scaling[name] as number) as [number, number, number, number];
    const wavelength = (2 * Math.PI) / frequency;
    if (wavelength < original / high) return frequency;
    if (wavelength > original / low) return frequency / factor;
    const smooth = (original / wavelength - low) / (high - low);
    return ((1 - smooth) * frequency) / factor + smooth * frequency;
  });
}

/** IEEE binary16 bits of a number that it can express. */
function halfBits(x: number): number {
  if (x === 0) return 0;
  const exponent = Math.floor(Math.log2(Math.abs(x)));
  return (x < 0 ? 0x8000 : 0) + ((exponent + 15) << 10) + (Math.abs(x) / 2 ** exponent - 1) * 1024;
}

test('F16, BF16 and F32 weights, mixed in one product, say the same', async () => {
  const config = tinyConfig('llama', { attention_bias: true, mlp_bias: true, spkv: SPKV });
  const uniform = random(3);
  // Sixty-fourths with 7 bits: all three types have them.
  const values = tinyTensors(config).map(({ shape }) =>
    Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => Math.round(uniform() * 80 - 40) / 64),
  );
  const encode = { F32: (x: Float32Array) => x, BF16: floatsToBf16, F16: (x: Float32Array) => Uint16Array.from(x, halfBits) };
  const logits = async (dtypes: readonly (keyof typeof encode)[]) => {
    const dir = join(root, dtypes.join('-'));
    mkdirSync(dir);
    writeFileSync(join(dir, 'config.json'), JSON.stringify(config));
    const tensors = tinyTensors(config).map(({ name, shape }, i) => {
      const dtype = dtypes[i % dtypes.length]!;
      return { name, shape, dtype, data: encode[dtype](values[i]!) };
    });
    await writeSafetensors(join(dir, 'model.safetensors'), tensors);
    using model = await loadModel(dir, { device, cacheDtype: 'f32', kvMemory: 1 << 22 });
    return model.stepAll(await model.createSequence(), [1, 5, 40, 7, 7]);
  };
  const expected = await logits(['F32']);
  const largest = expected.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
  for (const dtypes of [['F16'], ['F16', 'BF16', 'F32']] as const) {
    expect(maxDifference(await logits(dtypes), expected)).toBeLessThan(1e-5 * largest);
  }
});

test.each(CASES)('%s agrees with onnxruntime on dense logits', async (name, family, changes) => {
  const config = tinyConfig(family, changes);
  const { dir, tensors } = await writeRandomCheckpoint(join(root, name.replaceAll(/\W/g, '-')), config);
  const weight = (tensor: string) => bf16ToFloats(tensors.get(tensor)!);
  const maybe = (key: string, tensor: string) => (tensors.has(tensor) ? { [key]: weight(tensor) } : {});

  const uniform = random(7);
  const ids = Array.from({ length: T }, () => Math.floor(uniform() * (config['vocab_size'] as number)));
  const hidden = config['hidden_size'] as number;
  const embedding = weight('model.embed_tokens.weight');
  let x: Float32Array = Float32Array.from(ids.flatMap((id) => Array.from(embedding.subarray(id * hidden, (id + 1) * hidden))));
  for (let layer = 0; layer < 2; layer++) {
    const at = (part: string) => `model.layers.${layer}.${part}`;
    x = await onnxLayer({
      T, H: config['num_attention_heads'] as number, G: config['num_key_value_heads'] as number, D: config['head_dim'] as number,
      hidden, ffn: config['intermediate_size'] as number, x, epsilon: config['rms_norm_eps'] as number,
      inverseFrequencies: frequencies(config),
      weights: {
        inputNorm: weight(at('input_layernorm.weight')), postNorm: weight(at('post_attention_layernorm.weight')),
        q: weight(at('self_attn.q_proj.weight')), k: weight(at('self_attn.k_proj.weight')), v: weight(at('self_attn.v_proj.weight')),
        o: weight(at('self_attn.o_proj.weight')), gate: weight(at('mlp.gate_proj.weight')), up: weight(at('mlp.up_proj.weight')),
        down: weight(at('mlp.down_proj.weight')),
        ...maybe('qBias', at('self_attn.q_proj.bias')), ...maybe('kBias', at('self_attn.k_proj.bias')), ...maybe('vBias', at('self_attn.v_proj.bias')),
        ...maybe('qNorm', at('self_attn.q_norm.weight')), ...maybe('kNorm', at('self_attn.k_norm.weight')),
      },
    });
  }
  const norm = weight('model.norm.weight');
  const head = weight(config['tie_word_embeddings'] ? 'model.embed_tokens.weight' : 'lm_head.weight');
  const expected = new Float64Array(T * (config['vocab_size'] as number));
  for (let t = 0; t < T; t++) {
    const row = x.subarray(t * hidden, (t + 1) * hidden);
    const scale = 1 / Math.sqrt(row.reduce((sum, value) => sum + value * value, 0) / hidden + (config['rms_norm_eps'] as number));
    for (let v = 0; v < (config['vocab_size'] as number); v++) {
      let sum = 0;
      for (let c = 0; c < hidden; c++) sum += row[c]! * scale * norm[c]! * head[v * hidden + c]!;
      expected[t * (config['vocab_size'] as number) + v] = sum;
    }
  }

  const warnings: string[] = [];
  using model = await loadModel(dir, { device, cacheDtype: 'f32', kvMemory: 1 << 22, onWarning: (message) => warnings.push(message) });
  expect(warnings).toEqual([expect.stringContaining('runs dense')]);
  const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const tolerance = 2e-6 * largest * 64; // a few dozen f32 roundings of the largest value
  for (const chunk of [T, 1, 33]) {
    const sequence = await model.createSequence();
    const all = new Float32Array(expected.length);
    for (let start = 0; start < T; start += chunk) {
      all.set(await model.stepAll(sequence, ids.slice(start, start + chunk)), start * (config['vocab_size'] as number));
    }
    await sequence.dispose();
    expect(maxDifference(all, expected)).toBeLessThan(tolerance);
  }
});
