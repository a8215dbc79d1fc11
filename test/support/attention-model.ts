import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { loadCodec } from '../../lib/onnx/schema.js';
import { GraphBuilder, SPKV } from '../../lib/onnx/graph.js';
import { MANIFEST, type OnnxManifest } from '../../lib/onnx/manifest.js';
import { normals, random } from './device.js';

export interface Geometry {
  heads: number;
  kvHeads: number;
  headDim: number;
  window: number;
}

export const VOCABULARY = 8;

/** What each token's rows are, [V, ...]. */
export function attentionTables({ heads, kvHeads, headDim }: Omit<Geometry, 'window'>): Record<'query' | 'key' | 'value' | 'utility', Float32Array> {
  const next = random(3);
  const table = (width: number) => normals(VOCABULARY * width, next);
  return { query: table(heads * headDim), key: table(kvHeads * headDim), value: table(kvHeads * headDim), utility: new Float32Array(VOCABULARY * kvHeads).fill(1) };
}

/**
 * Writes an exported model that is all attention, in both forms: one layer whose queries, keys and values are looked
 * up by token, and whose first numbers of the context are the logits.
 */
export async function writeAttentionModel(dir: string, { heads, kvHeads, headDim, window }: Geometry): Promise<void> {
  const queryWidth = heads * headDim;
  const tables = attentionTables({ heads, kvHeads, headDim });
  const look = (graph: GraphBuilder, ids: string) =>
    Object.entries(tables).map(([name, table]) => {
      const width = table.length / VOCABULARY;
      return { name, width, value: graph.node('Gather', [graph.constant(table, [VOCABULARY, width]), ids]) };
    });
  const project = (graph: GraphBuilder, context: string, rows: string) => {
    const logits = graph.node('Slice', [graph.node('Gather', [context, rows]), graph.ints(0), graph.ints(VOCABULARY), graph.ints(1)]);
    graph.output('logits', logits, 'f32', ['N', VOCABULARY]);
  };

  const whole = new GraphBuilder('model');
  const ids = whole.input('input_ids', 'i64', ['T']);
  const positions = whole.input('position_ids', 'i64', ['T']);
  const slots = whole.input('sequence_slots', 'i32', ['B']);
  const offsets = whole.input('sequence_offsets', 'i32', ['B + 1']);
  const rows = whole.input('logit_rows', 'i64', ['N']);
  const attributes = { layer: 0, layers: 1, num_heads: heads, kv_num_heads: kvHeads, head_dim: headDim, window, scale: { float: headDim ** -0.5 } };
  const inputs = [...look(whole, ids).map(({ value }) => value), positions, slots, offsets];
  project(whole, whole.node('SelfPrunedAttention', inputs, attributes, { domain: SPKV }), rows);

  const before = new GraphBuilder('part-0');
  const tokens = before.input('input_ids', 'i64', ['T']);
  for (const { name, width, value } of look(before, tokens)) before.output(name, value, 'f32', ['T', width]);
  const nothing = before.node('Gather', [before.constant(new Float32Array(VOCABULARY * VOCABULARY), [VOCABULARY, VOCABULARY]), tokens]);
  before.output('next_residual', nothing, 'f32', ['T', VOCABULARY]);

  const after = new GraphBuilder('part-1');
  project(after, after.input('context', 'f32', ['T', queryWidth]), after.input('logit_rows', 'i64', ['N']));

  const codec = await loadCodec();
  mkdirSync(dir, { recursive: true });
  for (const graph of [whole, before, after]) writeFileSync(join(dir, `${graph.name}.onnx`), codec.encode(graph.build()));
  const manifest: OnnxManifest = {
    version: 1, dtype: 'f32', weights: 'weights.bin', graph: 'model.onnx', parts: ['part-0.onnx', 'part-1.onnx'],
    model: { layers: 1, heads, kvHeads, headDim, hiddenSize: VOCABULARY, vocabSize: VOCABULARY, maxPositions: 1 << 20, eosTokenIds: [] },
    spkv: { window, threshold: 0.5 },
  };
  writeFileSync(join(dir, 'weights.bin'), '');
  writeFileSync(join(dir, MANIFEST), JSON.stringify(manifest));
}
