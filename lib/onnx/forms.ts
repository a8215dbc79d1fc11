import { GraphBuilder, SPKV } from './graph.js';
import type { AttentionInputs, Network } from './network.js';

/** The two forms of an exported model. */
export const ONNX_FORMS = ['parts', 'graph'] as const;

/** The whole model in one graph, with attention and cache behind the operator ai.spkv::SelfPrunedAttention. */
export function oneGraph(network: Network): GraphBuilder {
  const { layers, vocabSize } = network.config;
  const graph = new GraphBuilder('model');
  const ids = graph.input('input_ids', 'i64', ['T']);
  const positions = graph.input('position_ids', 'i64', ['T']);
  const slots = graph.input('sequence_slots', 'i32', ['B']);
  const offsets = graph.input('sequence_offsets', 'i32', ['B + 1']);
  const rows = graph.input('logit_rows', 'i64', ['N']);

  const angles = network.angles(graph, positions);
  let { residual, normed } = network.embed(graph, ids);
  for (let layer = 0; layer < layers; layer++) {
    const { query, key, value, utility } = network.attentionInputs(graph, layer, normed, angles);
    let context = graph.node(
      'SelfPrunedAttention', [query, key, value, utility ?? '', positions, slots, offsets], operatorAttributes(network, layer), { domain: SPKV },
    );
    // Nothing after the last attention is needed of the other rows.
    if (layer === layers - 1) [context, residual] = [context, residual].map((x) => graph.node('Gather', [x, rows])) as [string, string];
    ({ residual, normed } = network.afterAttention(graph, layer, context, residual));
  }
  graph.output('logits', network.logits(graph, normed), 'f32', ['N', vocabSize]);
  return graph;
}

/** The same in layers + 1 graphs: what lies before, between and after the layers' attention. */
export function parts(network: Network): GraphBuilder[] {
  const { layers, hiddenSize, heads, headDim, vocabSize } = network.config;
  const first = new GraphBuilder('part-0');
  const ids = first.input('input_ids', 'i64', ['T']);
  const firstPositions = first.input('position_ids', 'i64', ['T']);
  const { residual, normed } = network.embed(first, ids);
  endPart(first, network, residual, network.attentionInputs(first, 0, normed, network.angles(first, firstPositions)));

  const graphs = [first];
  for (let layer = 0; layer < layers; layer++) {
    const graph = new GraphBuilder(`part-${layer + 1}`);
    const context = graph.input('context', 'f32', ['T', heads * headDim]);
    const before = graph.input('residual', 'f32', ['T', hiddenSize]);
    if (layer < layers - 1) {
      const positions = graph.input('position_ids', 'i64', ['T']);
      const after = network.afterAttention(graph, layer, context, before);
      endPart(graph, network, after.residual, network.attentionInputs(graph, layer + 1, after.normed, network.angles(graph, positions)));
    } else {
      const rows = graph.input('logit_rows', 'i64', ['N']);
      const after = network.afterAttention(graph, layer, graph.node('Gather', [context, rows]), graph.node('Gather', [before, rows]));
      graph.output('logits', network.logits(graph, after.normed), 'f32', ['N', vocabSize]);
    }
    graphs.push(graph);
  }
  return graphs;
}

function endPart(graph: GraphBuilder, { config }: Network, residual: string, { query, key, value, utility }: AttentionInputs): void {
  const { hiddenSize, heads, kvHeads, headDim } = config;
  graph.output('next_residual', residual, 'f32', ['T', hiddenSize]);
  graph.output('query', query, 'f32', ['T', heads * headDim]);
  graph.output('key', key, 'f32', ['T', kvHeads * headDim]);
  graph.output('value', value, 'f32', ['T', kvHeads * headDim]);
  if (utility !== undefined) graph.output('utility', utility, 'f32', ['T', kvHeads]);
}

function operatorAttributes({ config }: Network, layer: number): Record<string, number | { float: number }> {
  const { layers, heads, kvHeads, headDim, spkv } = config;
  return {
    layer, layers, num_heads: heads, kv_num_heads: kvHeads, head_dim: headDim, scale: { float: 1 / Math.sqrt(headDim) },
    ...(spkv && { window: spkv.window }),
  };
}
