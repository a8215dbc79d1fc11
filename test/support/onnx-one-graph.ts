import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { MICROSOFT, nodeProto, SPKV, valueInfo } from '../../lib/onnx/graph.js';
import { readManifest } from '../../lib/onnx/index.js';
import { loadCodec, type ModelProto, toNumber } from '../../lib/onnx/schema.js';
import { type OnnxTensor, runOnnx } from './onnx-session.js';

export interface OneGraphRun {
  logits: Float32Array;
  /** What the operators of all layers got: [T, G] each, none in a dense model. */
  utilities: Float32Array[];
  /** Attributes of the operators, in order. */
  attributes: Record<string, number>[];
}

/**
 * Runs the one graph of an exported model over a whole text, without pruning: onnxruntime's GroupQueryAttention stands
 * in for ai.spkv::SelfPrunedAttention, which onnxruntime does not have by itself.
 */
export async function runOneGraph(dir: string, ids: readonly number[], rows: readonly number[] = [...ids.keys()]): Promise<OneGraphRun> {
  const { graph: file } = await readManifest(dir);
  const codec = await loadCodec();
  const model = codec.decode(readFileSync(join(dir, file!)));
  const { utilities, attributes } = replaceOperators(model, ids.length);
  const path = join(dir, `stand-in-${ids.length}.onnx`); // sessions are kept by path
  writeFileSync(path, codec.encode(model));
  const longs = (values: readonly number[]): OnnxTensor => ({ type: 'int64', data: BigInt64Array.from(values, BigInt), dims: [values.length] });
  const ints = (...values: number[]): OnnxTensor => ({ type: 'int32', data: Int32Array.from(values), dims: [values.length] });
  const outputs = await runOnnx(path, {
    input_ids: longs(ids), position_ids: longs([...ids.keys()]), sequence_slots: ints(0), sequence_offsets: ints(0, ids.length), logit_rows: longs(rows),
  });
  return { logits: outputs['logits']!.data as Float32Array, utilities: utilities.map((name) => outputs[name]!.data as Float32Array), attributes };
}

function replaceOperators(model: ModelProto, tokens: number): { utilities: string[]; attributes: Record<string, number>[] } {
  const graph = model.graph!;
  const utilities: string[] = [];
  const attributes: Record<string, number>[] = [];
  const constant = (name: string, type: number, data: Int32Array | BigInt64Array, dims: number[]) =>
    graph.initializer!.push({ name, data_type: type, dims, raw_data: new Uint8Array(data.buffer) });
  constant('batch-axis', 7, BigInt64Array.of(0n), [1]);
  constant('lengths', 6, Int32Array.of(tokens - 1), [1]);
  constant('total', 6, Int32Array.of(tokens), []);
  graph.node = graph.node!.flatMap((node) => {
    if (node.domain !== SPKV) return [node];
    const [query, key, value, utility, ...handles] = node.input!;
    expect([node.op_type, ...handles]).toEqual(['SelfPrunedAttention', 'position_ids', 'sequence_slots', 'sequence_offsets']);
    const read = Object.fromEntries(node.attribute!.map(({ name, i, f, type }) => [name!, type === 1 ? f! : toNumber(i)]));
    attributes.push(read);
    if (utility) {
      utilities.push(utility);
      graph.output!.push(valueInfo(utility, 'f32', ['T', read['kv_num_heads']!]));
    }
    const at = (name: string) => `${node.name}/${name}`;
    const inputs = [query, key, value].map((input, i) => [input!, at(`batch-${i}`)] as const);
    return [
      ...inputs.map(([input, batch]) => nodeProto(batch, 'Unsqueeze', [input, 'batch-axis'], [batch])),
      nodeProto(at('attention'), 'GroupQueryAttention', [...inputs.map(([, batch]) => batch), '', '', 'lengths', 'total'], [at('out'), at('key'), at('value')], {
        num_heads: read['num_heads']!, kv_num_heads: read['kv_num_heads']!, scale: { float: read['scale']! },
      }, MICROSOFT),
      nodeProto(at('squeeze'), 'Squeeze', [at('out'), 'batch-axis'], node.output!),
    ];
  });
  model.opset_import!.push(...(model.opset_import!.some(({ domain }) => domain === MICROSOFT) ? [] : [{ domain: MICROSOFT, version: 1 }]));
  return { utilities, attributes };
}
