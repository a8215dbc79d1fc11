import type { NodeProto } from '../schema.js';
import type { Cuts } from './cuts.js';
import type { AttentionSite } from './site.js';

/** Products with a weight, and the input that the weight stands at. */
const PROJECTIONS: Readonly<Record<string, number>> = {
  MatMul: 1, Gemm: 1, MatMulNBits: 1, MatMulBnb4: 1, MatMulInteger: 1, MatMulIntegerToFloat: 1, DynamicQuantizeMatMul: 1, QLinearMatMul: 3, FusedMatMul: 1,
};

/**
 * The hidden state that the query, key and value projections of an attention read, which is what its predictor reads.
 * Errors: UNSUPPORTED, where they read different ones.
 */
export function hiddenOf(cuts: Cuts, { node, query, key, value }: AttentionSite): string {
  const found = new Set([query, key, value].flatMap((placed) => [...projectionInputs(cuts, placed.value)]));
  if (found.size === 1) return [...found][0]!;
  throw cuts.source.refuse(node, `has queries, keys and values that are not projections of one hidden state, but of ${found.size === 0 ? 'none' : [...found].map((name) => `"${name}"`).join(', ')}`);
}

function projectionInputs(cuts: Cuts, value: string): Set<string> {
  const found = new Set<string>();
  const seen = new Set<string>();
  const open = [value];
  for (let at = open.pop(); at !== undefined; at = open.pop()) {
    if (seen.has(at)) continue;
    seen.add(at);
    const node = cuts.attentionOf(at) === undefined ? cuts.source.producer(at) : undefined;
    if (!node) found.add(at);
    else if (isProjection(cuts, node)) found.add(asItWas(cuts, node.input![0]!));
    else open.push(...cuts.tokenInputs(node));
  }
  return found;
}

function isProjection(cuts: Cuts, node: NodeProto): boolean {
  const weight = PROJECTIONS[node.op_type ?? ''];
  return weight !== undefined && cuts.origin(node.input?.[weight] ?? '').kind === 'free';
}

/** A hidden state before it was flattened, cast or quantised for its product. */
function asItWas(cuts: Cuts, value: string): string {
  const changes = ['DynamicQuantizeLinear', 'QuantizeLinear', 'DequantizeLinear', 'Cast', 'Reshape', 'Identity'];
  let at = value;
  for (let node = cuts.source.producerOf(at, ...changes); node; node = cuts.source.producerOf(at, ...changes)) at = node.input![0]!;
  return at;
}
