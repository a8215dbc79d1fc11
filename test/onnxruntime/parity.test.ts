// Dense attention of exported models against onnxruntime's own GroupQueryAttention.
import { join } from 'node:path';
import { loadModel, ROUTES } from '../../lib/onnxruntime/index.js';
import { attentionTables, VOCABULARY, writeAttentionModel } from '../support/attention-model.js';
import { maxDifference, random } from '../support/device.js';
import { temporaryDirectory } from '../support/files.js';
import { OnnxGraph } from '../support/onnx.js';
import { closeOnnx, type OnnxTensor, runOnnx } from '../support/onnx-session.js';

afterAll(closeOnnx);
const root = temporaryDirectory();
const TOKENS = 300;
// Contexts are averages of normal numbers; sums of 300 f32 terms of their size differ by less.
const TOLERANCE = 1e-5;

/** The first columns of the context of a whole text, by onnxruntime. */
async function groupQueryAttention(geometry: { heads: number; kvHeads: number; headDim: number }, ids: number[]): Promise<Float32Array> {
  const { heads, kvHeads, headDim } = geometry;
  const tables = attentionTables(geometry);
  const graph = new OnnxGraph();
  const feeds: Record<string, OnnxTensor> = {};
  const input = (name: string, data: Float32Array | Int32Array, dims: number[]) => {
    const type = data instanceof Float32Array ? 'float32' : 'int32';
    feeds[name] = { type, data, dims };
    return graph.input(name, type, dims);
  };
  const rows = (name: 'query' | 'key' | 'value', width: number) =>
    input(name, Float32Array.from({ length: ids.length * width }, (_, i) => tables[name][ids[Math.floor(i / width)]! * width + (i % width)]!), [1, ids.length, width]);
  const past = (name: string) => input(name, new Float32Array(0), [1, kvHeads, 0, headDim]);
  const inputs = [
    rows('query', heads * headDim), rows('key', kvHeads * headDim), rows('value', kvHeads * headDim), past('past_key'), past('past_value'),
    input('seqlens_k', Int32Array.of(ids.length - 1), [1]), input('total_sequence_length', Int32Array.of(ids.length), []),
  ];
  graph.node('GroupQueryAttention', inputs, { num_heads: heads, kv_num_heads: kvHeads }, { domain: 'com.microsoft', outputs: ['output', 'present_key', 'present_value'] });
  graph.output('output', 'float32', [1, ids.length, heads * headDim]);
  const { output } = await runOnnx(graph.build(), feeds);
  const all = output!.data as Float32Array;
  return Float32Array.from({ length: ids.length * VOCABULARY }, (_, i) => all[Math.floor(i / VOCABULARY) * heads * headDim + (i % VOCABULARY)]!);
}

describe.each([[4, 2, 16], [32, 8, 128], [3, 1, 64]])('%i query heads, %i KV heads of %i', (heads, kvHeads, headDim) => {
  const uniform = random(heads);
  const ids = Array.from({ length: TOKENS }, () => Math.floor(uniform() * VOCABULARY));
  let expected: Float32Array;
  let dir: string;
  beforeAll(async () => {
    expected = await groupQueryAttention({ heads, kvHeads, headDim }, ids);
    dir = join(root, String(headDim));
    await writeAttentionModel(dir, { heads, kvHeads, headDim, window: 64 });
  });

  test.each(ROUTES)('route %s', async (route) => {
    using model = await loadModel(dir, { route });
    for (const chunk of [TOKENS, 97]) {
      const sequence = await model.createSequence({ threshold: 0 });
      for (let start = 0; start < TOKENS; start += chunk) {
        const logits = await model.stepAll(sequence, ids.slice(start, start + chunk));
        expect(maxDifference(logits, expected.subarray(start * VOCABULARY, start * VOCABULARY + logits.length))).toBeLessThan(TOLERANCE);
      }
      await sequence.dispose();
    }
  });
});
