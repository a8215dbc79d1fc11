// Attention as one node: GroupQueryAttention and MultiHeadAttention of com.microsoft, and ai.onnx::Attention.
import { MICROSOFT } from '../graph.js';
import type { NodeProto } from '../schema.js';
import { keyValue } from './repeated-heads.js';
import type { AttentionSite, Heads } from './site.js';
import type { SourceGraph } from './source-graph.js';

/** Inputs of GroupQueryAttention that the rewritten graph replaces: past keys and values, lengths, tables, positions. */
const GQA_INPUTS = 10;

/** The attention that `node` computes; undefined where it is another operator. Errors: UNSUPPORTED. */
export function nodeSite(source: SourceGraph, node: NodeProto, heads: Heads): AttentionSite | undefined {
  if (node.op_type === 'GroupQueryAttention' && node.domain === MICROSOFT) return groupQuery(source, node, heads);
  if (node.op_type === 'MultiHeadAttention' && node.domain === MICROSOFT) return multiHead(source, node, heads);
  if (node.op_type === 'Attention' && (node.domain ?? '') === '') return standard(source, node, heads);
  if (node.op_type?.endsWith('Attention') && node.domain === MICROSOFT) {
    throw source.refuse(node, 'is a kind of attention that spkv does not know; it knows GroupQueryAttention, MultiHeadAttention, ai.onnx::Attention, and MatMul, Softmax, MatMul');
  }
  return undefined;
}

function groupQuery(source: SourceGraph, node: NodeProto, heads: Heads): AttentionSite {
  const inputs = node.input ?? [];
  checkHeads(source, node, heads, 'num_heads', 'kv_num_heads');
  const extra = inputs.findIndex((name, i) => i >= GQA_INPUTS && name !== '');
  if (extra >= 0) throw source.refuse(node, `has the input ${extra} ("${inputs[extra]}"): a bias, sinks, norms or a quantised cache, which spkv does not honour`);
  if (source.integer(node, 'local_window_size', -1) !== -1) throw source.refuse(node, 'has a local window; spkv takes full attention');
  for (const name of ['softcap', 'smooth_softmax', 'qk_output', 'kv_cache_bit_width']) refuseUnlessZero(source, node, name);
  const [query, key, value] = inputs as [string, string, string];
  const packed = !key && !value;
  if (!query || (!packed && (!key || !value))) throw source.refuse(node, 'has a query, but not both of key and value');
  const rotates = source.integer(node, 'do_rotary', 0) !== 0;
  const [cos, sin] = [inputs[7], inputs[8]];
  if (rotates && (!cos || !sin)) throw source.refuse(node, 'rotates, but has no cos_cache and sin_cache');
  return {
    node,
    query: { value: query, layout: 'rows' },
    key: { value: packed ? query : key, layout: 'rows' },
    value: { value: packed ? query : value, layout: 'rows' },
    packed,
    ...(rotates && { rotary: { cos: cos!, sin: sin!, interleaved: source.integer(node, 'rotary_interleaved', 0) } }),
    scale: source.attribute(node, 'scale')?.f || heads.headDim ** -0.5,
    output: { value: node.output![0]!, layout: 'rows' },
  };
}

function multiHead(source: SourceGraph, node: NodeProto, { heads, kvHeads, headDim }: Heads): AttentionSite {
  const [query, key, value, bias, , mask] = node.input ?? [];
  const found = source.integer(node, 'num_heads', 0);
  if (found !== heads || kvHeads !== heads) throw source.refuse(node, `has ${found} heads for queries and keys alike, but config.json says ${heads} and ${kvHeads}`);
  if (!query || !key || !value || bias) throw source.refuse(node, 'has packed inputs or a bias, which spkv does not know here');
  if (source.integer(node, 'unidirectional', 0) === 0 && !mask) throw source.refuse(node, 'is neither causal nor masked: no decoder');
  const rows = (name: string) => ({ value: name, layout: 'rows' as const });
  return {
    node, query: rows(query), key: rows(key), value: rows(value), packed: false, scale: source.attribute(node, 'scale')?.f || headDim ** -0.5, output: rows(node.output![0]!),
  };
}

function standard(source: SourceGraph, node: NodeProto, heads: Heads): AttentionSite {
  const [query, key, value, mask] = node.input ?? [];
  if (!query || !key || !value) throw source.refuse(node, 'needs query, key and value');
  refuseUnlessZero(source, node, 'softcap');
  if (source.integer(node, 'is_causal', 0) === 0 && !mask) throw source.refuse(node, 'is neither causal nor masked: no decoder');
  if (node.output?.[3]) throw source.refuse(node, 'gives its scores away, which spkv does not compute as a whole');
  // Three dimensions have the head counts as attributes.
  const flat = source.attribute(node, 'q_num_heads') !== undefined;
  if (flat) checkHeads(source, node, heads, 'q_num_heads', 'kv_num_heads');
  const placed = (name: string) => (flat ? { value: name, layout: 'rows' as const } : keyValue(source, node, name, heads, true));
  return {
    node,
    query: { value: query, layout: flat ? 'rows' : 'heads' },
    key: placed(key),
    value: placed(value),
    packed: false,
    scale: source.attribute(node, 'scale')?.f || heads.headDim ** -0.5,
    output: { value: node.output![0]!, layout: flat ? 'rows' : 'heads' },
  };
}

function checkHeads(source: SourceGraph, node: NodeProto, { heads, kvHeads }: Heads, query: string, keyValueName: string): void {
  const found = [source.integer(node, query, 0), source.integer(node, keyValueName, 0)];
  if (found[0] !== heads || found[1] !== kvHeads) throw source.refuse(node, `has ${found[0]} query and ${found[1]} KV heads, but config.json says ${heads} and ${kvHeads}`);
}

function refuseUnlessZero(source: SourceGraph, node: NodeProto, name: string): void {
  const attribute = source.attribute(node, name);
  const value = attribute?.f ?? source.integer(node, name, 0);
  if (attribute && value !== 0) throw source.refuse(node, `has ${name} ${value}, which spkv does not honour`);
}
