import { type Attributes, type GraphBuilder, SPKV } from './graph.js';

/** The two forms of an exported model. */
export const ONNX_FORMS = ['parts', 'graph'] as const;
export type OnnxForm = (typeof ONNX_FORMS)[number];

/** Sizes that the graphs of a model declare. */
export interface Geometry {
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly hiddenSize: number;
  readonly vocabSize: number;
}

/** What attention of a layer takes, in f32, and what is carried past it. */
export interface AttentionInputs {
  /** [T, H·D], [T, G·D], [T, G·D] */
  query: string;
  key: string;
  value: string;
  /** [T, G] in [0, 1]; undefined in a dense model. */
  utility: string | undefined;
  /** [T, C] */
  residual: string;
}

/** A decoder as nodes of a graph, but for its attention. */
export interface SplitDecoder {
  readonly geometry: Geometry;
  /** Tokens of the window; undefined in a dense model. */
  readonly window: number | undefined;
  /** From ids and positions, i64 [T], to the attention of layer 0. */
  begin(graph: GraphBuilder, ids: string, positions: string): AttentionInputs;
  /** From what attention of `layer` gave, context [T, H·D], to the attention of the layer after it. */
  between(graph: GraphBuilder, layer: number, context: string, residual: string, positions: string): AttentionInputs;
  /** From what the last attention gave, for N rows, to logits [N, V]. */
  end(graph: GraphBuilder, context: string, residual: string): string;
}

/** What the graphs of a model are made with. */
export type NewGraph = (name: string) => GraphBuilder;

/** The whole model in one graph, with attention and cache behind the operator ai.spkv::SelfPrunedAttention. */
export function oneGraph(decoder: SplitDecoder, newGraph: NewGraph): GraphBuilder {
  const { layers, vocabSize } = decoder.geometry;
  const graph = newGraph('model');
  const ids = graph.input('input_ids', 'i64', ['T']);
  const positions = graph.input('position_ids', 'i64', ['T']);
  const slots = graph.input('sequence_slots', 'i32', ['B']);
  const offsets = graph.input('sequence_offsets', 'i32', ['B + 1']);
  const rows = graph.input('logit_rows', 'i64', ['N']);

  let inputs = decoder.begin(graph, ids, positions);
  for (let layer = 0; ; layer++) {
    const { query, key, value, utility, residual } = inputs;
    const context = graph.node(
      'SelfPrunedAttention', [query, key, value, utility ?? '', positions, slots, offsets], operatorAttributes(decoder, layer), { domain: SPKV },
    );
    if (layer === layers - 1) {
      graph.output('logits', endRows(graph, decoder, context, residual, rows), 'f32', ['N', vocabSize]);
      return graph;
    }
    inputs = decoder.between(graph, layer, context, residual, positions);
  }
}

/** The same in layers + 1 graphs: what lies before, between and after the layers' attention. */
export function parts(decoder: SplitDecoder, newGraph: NewGraph): GraphBuilder[] {
  const { layers, hiddenSize, heads, headDim, vocabSize } = decoder.geometry;
  const first = newGraph('part-0');
  outputs(first, decoder, decoder.begin(first, first.input('input_ids', 'i64', ['T']), first.input('position_ids', 'i64', ['T'])));

  const graphs = [first];
  for (let layer = 0; layer < layers; layer++) {
    const graph = newGraph(`part-${layer + 1}`);
    const context = graph.input('context', 'f32', ['T', heads * headDim]);
    const residual = graph.input('residual', 'f32', ['T', hiddenSize]);
    if (layer < layers - 1) {
      outputs(graph, decoder, decoder.between(graph, layer, context, residual, graph.input('position_ids', 'i64', ['T'])));
    } else {
      graph.output('logits', endRows(graph, decoder, context, residual, graph.input('logit_rows', 'i64', ['N'])), 'f32', ['N', vocabSize]);
    }
    graphs.push(graph);
  }
  return graphs;
}

/** Nothing after the last attention is needed of the rows whose logits nobody asks for. */
function endRows(graph: GraphBuilder, decoder: SplitDecoder, context: string, residual: string, rows: string): string {
  return decoder.end(graph, graph.node('Gather', [context, rows]), graph.node('Gather', [residual, rows]));
}

function outputs(graph: GraphBuilder, { geometry }: SplitDecoder, { query, key, value, utility, residual }: AttentionInputs): void {
  const { hiddenSize, heads, kvHeads, headDim } = geometry;
  // An input and an output of a graph cannot have one name: this is the next part's "residual".
  graph.output('next_residual', residual, 'f32', ['T', hiddenSize]);
  graph.output('query', query, 'f32', ['T', heads * headDim]);
  graph.output('key', key, 'f32', ['T', kvHeads * headDim]);
  graph.output('value', value, 'f32', ['T', kvHeads * headDim]);
  if (utility !== undefined) graph.output('utility', utility, 'f32', ['T', kvHeads]);
}

function operatorAttributes({ geometry, window }: SplitDecoder, layer: number): Attributes {
  const { layers, heads, kvHeads, headDim } = geometry;
  return {
    layer, layers, num_heads: heads, kv_num_heads: kvHeads, head_dim: headDim, scale: { float: 1 / Math.sqrt(headDim) },
    ...(window !== undefined && { window }),
  };
}
