import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { readCheckpoint, writeCheckpoint } from '../../bench/peers/checkpoint.js';
import { narrow, widen } from '../../bench/peers/floats.js';
import { writeGguf } from '../../bench/peers/gguf.js';
import { DEFAULTS, randomCheckpoint } from '../../bench/peers/random-llama.js';

const SMALL = { ...DEFAULTS, hidden: 32, layers: 1, heads: 2, kvHeads: 1, headSize: 8, ffn: 48, vocabulary: 300, predictorHidden: 8, density: 0.25 };

let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'spkv-gguf-'));
});
afterAll(() => rmSync(directory, { recursive: true }));

describe('narrow', () => {
  test.each([
    [1, 0x3c00],
    [-2.5, 0xc100],
    [65519.99, 0x7bff],
    [65520, 0x7c00],
    [1 + 2 ** -11, 0x3c00], // tie, to even
    [1 + 3 * 2 ** -11, 0x3c02], // tie, to even
    [2 ** -14, 0x0400],
    [2 ** -24, 0x0001],
    [2 ** -25, 0x0000], // tie, to even
    [3 * 2 ** -25, 0x0002], // tie, to even
    [1.01 * 2 ** -25, 0x0001],
    [2 ** -14 - 2 ** -26, 0x0400], // rounds up into the normal numbers
  ])('rounds %d to the f16 %i', (value, bits) => {
    expect(new Uint16Array(narrow(Float32Array.of(value), 'f16').buffer)[0]).toBe(bits);
  });

  test('rounds to bf16 with ties to even, and widen gives the values back', () => {
    const bytes = narrow(Float32Array.of(1, 1 + 2 ** -8, 1 + 3 * 2 ** -8, -3.5), 'bf16');
    expect(widen(bytes, 'bf16')).toEqual(Float32Array.of(1, 1, 1 + 2 ** -6, -3.5));
  });
});

describe('writeGguf', () => {
  test('keeps every value of the checkpoint but the predictors, with q and k rows as pairs', () => {
    writeCheckpoint(directory, randomCheckpoint(SMALL));
    const source = readCheckpoint(directory);
    expect(source.tensors.some(({ name }) => name.includes('utility_predictor'))).toBe(true);
    const path = join(directory, 'model.gguf');
    writeGguf(path, source, 'f32');

    const { metadata, tensors } = readGguf(readFileSync(path));
    expect(metadata).toMatchObject({
      'general.architecture': 'llama',
      'llama.attention.head_count': 2,
      'llama.attention.head_count_kv': 1,
      'tokenizer.ggml.merges': [],
    });
    expect(new Set(metadata['tokenizer.ggml.tokens'] as string[]).size).toBe(SMALL.vocabulary);
    expect([...tensors.keys()].filter((name) => name.startsWith('blk.')).toSorted()).toEqual(
      ['attn_k', 'attn_norm', 'attn_output', 'attn_q', 'attn_v', 'ffn_down', 'ffn_gate', 'ffn_norm', 'ffn_up'].map((name) => `blk.0.${name}.weight`),
    );
    const original = (name: string) => source.tensors.find((tensor) => tensor.name === name)!.values();
    expect(tensors.get('token_embd.weight')).toEqual({ ne: [32, 300], values: original('model.embed_tokens.weight') });
    expect(tensors.get('blk.0.ffn_down.weight')).toEqual({ ne: [48, 32], values: original('model.layers.0.mlp.down_proj.weight') });
    const order = [0, 4, 1, 5, 2, 6, 3, 7]; // rows i and i + 4 of a head of 8 become neighbours
    const q = original('model.layers.0.self_attn.q_proj.weight');
    const rows = [0, 8].flatMap((head) => order.flatMap((row) => [...q.subarray((head + row) * 32, (head + row + 1) * 32)]));
    expect(tensors.get('blk.0.attn_q.weight')).toEqual({ ne: [32, 16], values: Float32Array.from(rows) });
  });

  test('refuses what it would convert wrongly', () => {
    const { config, tensors } = randomCheckpoint(SMALL);
    const path = join(directory, 'refused.gguf');
    expect(() => writeGguf(path, { config: { ...config, model_type: 'qwen3' }, tensors }, 'f32')).toThrow(/qwen3/);
    expect(() => writeGguf(path, { config: { ...config, rope_scaling: { factor: 2 } }, tensors }, 'f32')).toThrow(/RoPE scaling/);
    const extra = { name: 'model.layers.0.self_attn.q_norm.weight', shape: [8], values: () => new Float32Array(8) };
    expect(() => writeGguf(path, { config, tensors: [extra] }, 'f32')).toThrow(/q_norm/);
  });
});

/** Reads an f32 GGUF file after its specification. */
function readGguf(file: Buffer) {
  let at = 0;
  const u32 = () => file.readUInt32LE((at += 4) - 4);
  const u64 = () => Number(file.readBigUInt64LE((at += 8) - 8));
  const string = () => {
    const length = u64();
    return file.toString('utf8', at, (at += length));
  };
  const value = (type: number): unknown => {
    if (type === 4 || type === 5) return u32();
    if (type === 6) return file.readFloatLE((at += 4) - 4);
    if (type === 7) return file[at++] === 1;
    if (type === 8) return string();
    if (type !== 9) throw new Error(`Unexpected metadata type ${type}`);
    const element = u32();
    return Array.from({ length: u64() }, () => value(element));
  };
  expect([file.toString('latin1', 0, (at += 4)), u32()]).toEqual(['GGUF', 3]);
  const [tensorCount, entries] = [u64(), u64()];
  const metadata: Record<string, unknown> = {};
  for (let i = 0; i < entries; i++) metadata[string()] = value(u32());
  const infos = Array.from({ length: tensorCount }, () => {
    const name = string();
    const ne = Array.from({ length: u32() }, u64);
    expect(u32()).toBe(0); // f32
    return { name, ne, offset: u64() };
  });
  const base = Math.ceil(at / 32) * 32;
  const tensors = infos.map(({ name, ne, offset }) => {
    expect(offset % 32).toBe(0);
    const count = ne.reduce((product, size) => product * size, 1);
    return [name, { ne, values: Float32Array.from({ length: count }, (_, i) => file.readFloatLE(base + offset + 4 * i)) }] as const;
  });
  return { metadata, tensors: new Map(tensors) };
}
