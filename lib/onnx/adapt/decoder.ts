import { elementCode } from '../elements.js';
import type { AttentionInputs, Geometry, SplitDecoder } from '../forms.js';
import { type GraphBuilder, MICROSOFT } from '../graph.js';
import { Copy } from './copy.js';
import { type Cuts, IDS, POSITIONS } from './cuts.js';
import { hiddenOf } from './hidden.js';
import type { SourceTensors } from './model-file.js';
import type { AttentionSite, Placed } from './site.js';
import type { Utilities } from './utilities.js';

/**
 * A decoder that others exported, cut at its attention. Its graph is for batches [B, T]: it gets one sequence of all
 * tokens of a step, since nothing but attention looks at more than one token.
 */
export class AdaptedDecoder implements SplitDecoder {
  constructor(
    readonly geometry: Geometry,
    private readonly cuts: Cuts,
    private readonly tensors: SourceTensors,
    private readonly utilities: Utilities,
    private readonly logits: string,
  ) {}

  get window(): number | undefined {
    return this.utilities.window;
  }

  begin(graph: GraphBuilder, ids: string, positions: string): AttentionInputs {
    const given = new Map([[IDS, this.#integers(graph, IDS, ids)], [POSITIONS, this.#integers(graph, POSITIONS, positions)]]);
    const sizes = graph.node('Shape', [given.get(IDS)!]);
    return this.#attentionInputs(graph, 0, this.#copy(graph, 0, given, sizes), positions);
  }

  between(graph: GraphBuilder, layer: number, context: string, residual: string, positions: string): AttentionInputs {
    const { given, sizes } = this.#after(graph, layer, context, residual);
    given.set(POSITIONS, this.#integers(graph, POSITIONS, positions));
    return this.#attentionInputs(graph, layer + 1, this.#copy(graph, layer + 1, given, sizes), positions);
  }

  end(graph: GraphBuilder, context: string, residual: string): string {
    const { layers } = this.geometry;
    const { given, sizes } = this.#after(graph, layers - 1, context, residual);
    const [logits] = this.#copy(graph, layers, given, sizes).values([this.logits]);
    return graph.node('Squeeze', [this.#toFloat(graph, this.logits, logits!), graph.ints(0)]);
  }

  #copy(graph: GraphBuilder, stage: number, given: ReadonlyMap<string, string>, sizes: string): Copy {
    return new Copy(this.cuts, this.tensors, graph, stage, given, sizes, this.geometry.hiddenSize);
  }

  /** What attention of `layer` has given and what went past it, as the source graph has them. */
  #after(graph: GraphBuilder, layer: number, context: string, residual: string): { given: Map<string, string>; sizes: string } {
    const carried = this.cuts.carried[layer]!;
    const { output } = this.cuts.sites[layer]!;
    const stream = this.#batch(graph, this.#fromFloat(graph, carried, residual));
    return {
      given: new Map([[carried, stream], [output.value, this.#lay(graph, output, this.#fromFloat(graph, output.value, context))]]),
      sizes: graph.node('Slice', [graph.node('Shape', [stream]), graph.ints(0), graph.ints(2)]),
    };
  }

  #attentionInputs(graph: GraphBuilder, layer: number, copy: Copy, positions: string): AttentionInputs {
    const { heads, kvHeads, headDim, hiddenSize } = this.geometry;
    const site = this.cuts.sites[layer]!;
    const carried = this.cuts.carried[layer]!;
    const hidden = this.utilities.predicted ? hiddenOf(this.cuts, site) : carried;
    const [residual, state, ...values] = copy.values([carried, hidden, ...(site.packed ? [site.query] : [site.query, site.key, site.value]).map(({ value }) => value)]);
    const flat = site.packed ? this.#unpack(graph, values[0]!) : values;
    const [query, key, value] = [site.query, site.key, site.value].map((placed, i) => ({ ...placed, value: flat[i]! })) as [Placed, Placed, Placed];
    const rows = (placed: Placed, source: Placed, count: number, rotated: boolean) =>
      this.#toFloat(graph, source.value, this.#rows(graph, rotated ? this.#rotate(graph, site, placed, count, positions) : placed, count));
    return {
      query: this.#scaled(graph, rows(query, site.query, heads, true), site.scale * Math.sqrt(headDim)),
      key: rows(key, site.key, kvHeads, true),
      value: rows(value, site.value, kvHeads, false),
      utility: this.utilities.of(graph, layer, () => this.#matrix(graph, this.#toFloat(graph, hidden, state!), hiddenSize), positions),
      residual: this.#matrix(graph, this.#toFloat(graph, carried, residual!), hiddenSize),
    };
  }

  #unpack(graph: GraphBuilder, packed: string): string[] {
    const { heads, kvHeads, headDim } = this.geometry;
    const outputs = ['query', 'key', 'value'].map((name) => graph.fresh(name));
    graph.node('Split', [packed, graph.ints(heads * headDim, kvHeads * headDim, kvHeads * headDim)], { axis: -1 }, { outputs });
    return outputs;
  }

  #rotate(graph: GraphBuilder, { rotary }: AttentionSite, placed: Placed, heads: number, positions: string): Placed {
    if (!rotary) return placed;
    const { headDim } = this.geometry;
    const half = this.cuts.source.shape(rotary.cos)?.[1];
    if (half === undefined || !this.cuts.source.initializers.has(rotary.cos) || !this.cuts.source.initializers.has(rotary.sin)) {
      throw this.cuts.source.unsupported(`the table "${rotary.cos}"`, 'of a rotation is not a constant');
    }
    const tables = [rotary.cos, rotary.sin].map((name) => graph.tensor(this.tensors.declare(name)));
    const part = 2 * half < headDim ? { rotary_embedding_dim: 2 * half } : {};
    const inputs = [placed.value, this.#batch(graph, positions), ...tables];
    const value = graph.node('RotaryEmbedding', inputs, { interleaved: rotary.interleaved, num_heads: heads, ...part }, { domain: MICROSOFT });
    return { ...placed, value };
  }

  /** [T, heads·D] of a value as it lies in the source graph. */
  #rows(graph: GraphBuilder, { value, layout }: Placed, heads: number): string {
    const { headDim } = this.geometry;
    if (layout === 'rows') return graph.node('Squeeze', [value, graph.ints(0)]);
    const tokens = layout === 'heads' ? graph.node('Transpose', [value], { perm: [0, 2, 1, 3] }) : value;
    return graph.node('Reshape', [graph.node('Squeeze', [tokens, graph.ints(0)]), graph.ints(0, heads * headDim)]);
  }

  /** A context [T, H·D] as the source graph has it. */
  #lay(graph: GraphBuilder, { layout }: Placed, context: string): string {
    const { heads, headDim } = this.geometry;
    if (layout === 'rows') return this.#batch(graph, context);
    return graph.node('Transpose', [this.#batch(graph, graph.node('Reshape', [context, graph.ints(0, heads, headDim)]))], { perm: [0, 2, 1, 3] });
  }

  #scaled(graph: GraphBuilder, query: string, factor: number): string {
    return Math.abs(factor - 1) < 1e-6 ? query : graph.node('Mul', [query, graph.constant(Float32Array.of(factor), [])]);
  }

  /** [1, ...] */
  #batch(graph: GraphBuilder, value: string): string {
    return graph.node('Unsqueeze', [value, graph.ints(0)]);
  }

  /** [1, T] of the type that the source graph has. */
  #integers(graph: GraphBuilder, source: string, value: string): string {
    const batch = this.#batch(graph, value);
    return this.cuts.source.element(source) === 'i32' ? graph.node('Cast', [batch], { to: elementCode('i32') }) : batch;
  }

  #matrix(graph: GraphBuilder, value: string, columns: number): string {
    return graph.node('Reshape', [value, graph.ints(-1, columns)]);
  }

  /** f32, whatever the type of `source`. */
  #toFloat(graph: GraphBuilder, source: string, value: string): string {
    return this.cuts.source.element(source) === 'f32' ? value : graph.node('Cast', [value], { to: elementCode('f32') });
  }

  #fromFloat(graph: GraphBuilder, source: string, value: string): string {
    const element = this.cuts.source.element(source);
    if (element === undefined) throw this.cuts.source.unsupported(`the value "${source}"`, 'is of a type that the graph does not tell');
    return element === 'f32' ? value : graph.node('Cast', [value], { to: elementCode(element) });
  }
}
