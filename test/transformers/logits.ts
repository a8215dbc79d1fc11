/**
 * Writes one small random checkpoint of every model family, and the logits that spkv computes for it, to be compared
 * with those of transformers by compare.py. Usage, from the root of the repository:
 *
 *   npx tsx test/transformers/logits.ts FOLDER [cpu|cuda:0]
 *   python3 test/transformers/compare.py FOLDER
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Family } from '../../lib/checkpoint/config.js';
import { loadModel } from '../../lib/index.js';
import { type Json, tinyConfig, writeRandomCheckpoint } from '../support/checkpoints.js';
import { random } from '../support/device.js';

const TOKENS = 300;
const SIZES = { vocab_size: 512, hidden_size: 256, intermediate_size: 704, num_hidden_layers: 4, num_attention_heads: 8, num_key_value_heads: 2, max_position_embeddings: 1024 };

const CASES: [name: string, family: Family, changes: Json][] = [
  ['llama', 'llama', { head_dim: 64 }],
  ['llama-3.1', 'llama', {
    head_dim: 64, rope_theta: 500000,
    rope_scaling: { rope_type: 'llama3', factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 64 },
  }],
  ['llama-linear', 'llama', { head_dim: 32, rope_scaling: { rope_type: 'linear', factor: 4 }, tie_word_embeddings: true }],
  ['mistral', 'mistral', { head_dim: 128 }],
  ['qwen2', 'qwen2', { head_dim: 32 }],
  ['qwen3', 'qwen3', { head_dim: 128, tie_word_embeddings: true }],
];

const [folder, device = 'cpu'] = process.argv.slice(2);
if (!folder) throw new Error('Usage: logits.ts FOLDER [cpu|cuda:0]');

for (const [name, family, changes] of CASES) {
  const config = tinyConfig(family, { ...SIZES, ...changes });
  const { dir } = await writeRandomCheckpoint(join(folder, name), config, 3, 0.05);
  const uniform = random(11);
  const ids = Array.from({ length: TOKENS }, () => Math.floor(uniform() * SIZES.vocab_size));
  writeFileSync(join(dir, 'ids.json'), JSON.stringify(ids));
  // What a GPU computes in is a choice; the CPU computes in f32.
  for (const precision of device === 'cpu' ? (['f32'] as const) : (['f32', 'bf16'] as const)) {
    using model = await loadModel(dir, {
      device, kvMemory: 1 << 26, cacheDtype: precision, ...(device === 'cpu' ? {} : { precision }),
    });
    // In two prompt chunks and single tokens: all ways through the cache.
    const logits = new Float32Array(TOKENS * SIZES.vocab_size);
    const sequence = await model.createSequence();
    for (let start = 0; start < TOKENS; ) {
      const count = start < 250 ? 125 : 1;
      logits.set(await model.stepAll(sequence, ids.slice(start, start + count)), start * SIZES.vocab_size);
      start += count;
    }
    await sequence.dispose();
    writeFileSync(join(dir, `logits-${precision}.bin`), logits);
  }
}
