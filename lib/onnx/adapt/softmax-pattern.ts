// Attention as exporters write it out: scores = q · kᵀ, scaled and masked, Softmax, weights · v.
import type { NodeProto } from '../schema.js';
import { keyValue, skipNeutral } from './repeated-heads.js';
import type { AttentionSite, Heads, Layout, Placed } from './site.js';
import type { SourceGraph } from './source-graph.js';

/** The attention around the Softmax `node`; undefined where it is the Softmax of something else. Errors: UNSUPPORTED. */
export function softmaxSite(source: SourceGraph, node: NodeProto, heads: Heads): AttentionSite | undefined {
  const weighted = productWithValues(source, node.output![0]!);
  const scores = weighted && findScores(source, node.input![0]!, heads);
  if (!weighted || !scores) return undefined;
  const query = unscaled(source, scores.product.input![0]!, heads);
  const keys = transposedKeys(source, node, scores.product.input![1]!, heads);
  return {
    node,
    query: { value: query.value, layout: 'heads' },
    key: keys.placed,
    value: keyValue(source, node, weighted.input![1]!, heads),
    packed: false,
    scale: scores.scale * query.scale * keys.scale,
    output: { value: weighted.output![0]!, layout: 'heads' },
  };
}

/** The MatMul that takes the weights; some exporters replace NaN by 0 in between. */
function productWithValues(source: SourceGraph, weights: string): NodeProto | undefined {
  for (let at = weights; ;) {
    const consumers = source.consumers(at).filter(({ op_type }) => op_type !== 'IsNaN');
    const [next] = consumers;
    if (consumers.length !== 1 || !next) return undefined;
    if (next.op_type === 'MatMul') return next.input![0] === at ? next : undefined;
    if (!['Cast', 'Dropout', 'Identity', 'Where'].includes(next.op_type ?? '')) return undefined;
    at = next.output![0]!;
  }
}

/** The MatMul that makes the scores, back through mask and scale. */
function findScores(source: SourceGraph, value: string, heads: Heads, masks = 0): { product: NodeProto; scale: number } | undefined {
  const node = source.producer(value);
  const [a, b] = node?.input ?? [];
  const back = (input: string | undefined, factor = 1, more = 0) => {
    const found = input === undefined ? undefined : findScores(source, input, heads, masks + more);
    return found && { ...found, scale: found.scale * factor };
  };
  switch (node?.op_type) {
    case 'MatMul':
      return source.initializers.has(b!) ? undefined : { product: node, scale: 1 };
    case 'Cast':
    case 'Identity':
      return back(a);
    case 'Add':
    case 'Where': {
      if (masks > 1) return undefined;
      const found = node.op_type === 'Add' ? (back(a, 1, 1) ?? back(b, 1, 1)) : (back(b, 1, 1) ?? back(node.input![2], 1, 1));
      if (found && masks > 0) throw source.refuse(node, 'is a second mask or bias of scores, which spkv does not know');
      return found;
    }
    case 'Mul':
    case 'Div': {
      const factor = scalar(source, b!, heads);
      if (factor !== undefined) return back(a, node.op_type === 'Mul' ? factor : 1 / factor);
      const other = node.op_type === 'Mul' ? scalar(source, a!, heads) : undefined;
      return other === undefined ? undefined : back(b, other);
    }
    default:
      return undefined;
  }
}

/** `value` before factors that are one number. */
function unscaled(source: SourceGraph, value: string, heads: Heads): { value: string; scale: number } {
  let scale = 1;
  let at = skipNeutral(source, value);
  for (let node = source.producerOf(at, 'Mul', 'Div'); node; node = source.producerOf(at, 'Mul', 'Div')) {
    const [a, b] = node.input as [string, string];
    const factor = scalar(source, b, heads);
    const other = factor === undefined && node.op_type === 'Mul' ? scalar(source, a, heads) : undefined;
    if (factor === undefined && other === undefined) break;
    scale *= other ?? (node.op_type === 'Mul' ? factor! : 1 / factor!);
    at = skipNeutral(source, other === undefined ? a : b);
  }
  return { value: at, scale };
}

/** Keys from the second factor of the scores, [1, H, D, past + T]. */
function transposedKeys(source: SourceGraph, softmax: NodeProto, value: string, heads: Heads): { placed: Placed; scale: number } {
  const outer = unscaled(source, value, heads);
  const { before, layout } = untransposed(source, softmax, outer.value);
  const inner = unscaled(source, before, heads);
  const scale = outer.scale * inner.scale;
  if (layout === 'heads') return { placed: keyValue(source, softmax, inner.value, heads), scale };
  // Without a past, and without repetition.
  if (heads.heads !== heads.kvHeads) throw source.refuse(softmax, 'has keys whose heads are not repeated for the query heads');
  return { placed: { value: inner.value, layout }, scale };
}

/** [1, H, T, D] or [1, T, H, D] from [1, H, D, T]. */
function untransposed(source: SourceGraph, softmax: NodeProto, value: string): { before: string; layout: Layout } {
  const transpose = source.producerOf(value, 'Transpose');
  const order = transpose && source.list(transpose, 'perm')?.join();
  if (order === '0,1,3,2') return { before: transpose!.input![0]!, layout: 'heads' };
  if (order === '0,2,3,1') return { before: transpose!.input![0]!, layout: 'tokens' };
  // The functions of onnxscript: [H, T, D], the last two exchanged, and back to four dimensions.
  const reshape = source.producerOf(value, 'Reshape');
  const inner = reshape && source.producerOf(reshape.input![0]!, 'Transpose');
  const flat = inner && source.list(inner, 'perm')?.join() === '0,2,1' ? source.producerOf(inner.input![0]!, 'Reshape') : undefined;
  if (flat) return { before: flat.input![0]!, layout: 'heads' };
  throw source.refuse(softmax, 'has keys that are not transposed to [batch, heads, size, tokens] in a way that spkv knows');
}

/** A value that is one number: a constant, or computed in a few steps from constants and the size of a head. */
function scalar(source: SourceGraph, value: string, heads: Heads, steps = 8): number | undefined {
  const constant = source.number(value);
  if (constant !== undefined || steps === 0) return constant;
  const node = source.producer(value);
  const [a, b] = node?.input ?? [];
  if (!node || a === undefined) return undefined;
  const of = (input: string | undefined) => (input === undefined ? undefined : scalar(source, input, heads, steps - 1));
  const both = (compute: (x: number, y: number) => number) => {
    const [x, y] = [of(a), of(b)];
    return x === undefined || y === undefined ? undefined : compute(x, y);
  };
  switch (node.op_type) {
    case 'Cast':
    case 'CastLike':
    case 'Identity':
    case 'Squeeze':
    case 'Unsqueeze':
    case 'Reshape':
      return of(a);
    case 'Sqrt': {
      const x = of(a);
      return x === undefined ? undefined : Math.sqrt(x);
    }
    case 'Reciprocal': {
      const x = of(a);
      return x === undefined ? undefined : 1 / x;
    }
    case 'Mul':
      return both((x, y) => x * y);
    case 'Div':
      return both((x, y) => x / y);
    case 'Pow':
      return both((x, y) => x ** y);
    case 'Shape':
      return source.integer(node, 'start', 0) === -1 ? heads.headDim : undefined;
    case 'Slice':
    case 'Gather': {
      // The last size of a value with heads, taken from its shape.
      const index = source.integers(b)?.[0];
      const last = index === -1 || index === 3;
      return source.producerOf(a, 'Shape') && last ? heads.headDim : undefined;
    }
    default:
      return undefined;
  }
}
