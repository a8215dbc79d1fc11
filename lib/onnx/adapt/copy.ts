import type { GraphBuilder } from '../graph.js';
import type { AttributeProto, GraphProto, NodeProto } from '../schema.js';
import { type Cuts, IDS, POSITIONS } from './cuts.js';
import type { SourceTensors } from './model-file.js';
import { inputsOf, nodeName, outputsOf } from './source-graph.js';

/** Operators whose output has the sizes of their first input that depends on tokens. */
const SAME_SIZES = [
  'Add', 'Sub', 'Mul', 'Div', 'Pow', 'Cast', 'Identity', 'Dropout', 'Sigmoid', 'Tanh', 'Neg', 'Sqrt', 'SimplifiedLayerNormalization',
  'SkipSimplifiedLayerNormalization', 'LayerNormalization', 'SkipLayerNormalization', 'RMSNormalization',
];

/**
 * Copies the nodes between two cuts into a graph. Names get the prefix of their part, so that several parts can stand
 * in one graph. `given` are source values that are there already, under other names.
 */
export class Copy {
  readonly #nodes = new Set<NodeProto>();

  constructor(
    private readonly cuts: Cuts,
    private readonly tensors: SourceTensors,
    private readonly graph: GraphBuilder,
    private readonly stage: number,
    private readonly given: ReadonlyMap<string, string>,
    /** [1, T] as a tensor of sizes. */
    private readonly sizes: string,
    private readonly hiddenSize: number,
  ) {}

  /** The names of `wanted` in the graph, whose nodes are copied with all that they need. Errors: UNSUPPORTED. */
  values(wanted: readonly string[]): string[] {
    const { source } = this.cuts;
    this.#collect(wanted);
    for (const node of [...this.#nodes].sort((a, b) => source.order(a) - source.order(b))) {
      if (this.#replacesSizes(node)) this.#copySizes(node);
      else this.graph.append(renamed(node, this.#prefix, (value) => this.#nameOf(value)));
    }
    return wanted.map((value) => this.#nameOf(value));
  }

  get #prefix(): string {
    return `part-${this.stage}/`;
  }

  #nameOf(value: string): string {
    const given = this.given.get(value);
    if (given !== undefined) return given;
    return this.cuts.source.initializers.has(value) ? this.graph.tensor(this.tensors.declare(value)) : `${this.#prefix}${value}`;
  }

  #collect(wanted: readonly string[]): void {
    const { source } = this.cuts;
    const open = wanted.map((value): [value: string, user: NodeProto | undefined] => [value, undefined]);
    for (let next = open.pop(); next; next = open.pop()) {
      const [value, user] = next;
      if (this.given.has(value) || source.initializers.has(value)) continue;
      const node = source.producer(value);
      if (!node || this.cuts.attentionOf(value) !== undefined) throw this.#unreachable(value, user);
      if (this.#nodes.has(node)) continue;
      this.#nodes.add(node);
      if (!this.#replacesSizes(node)) open.push(...inputsOf(node).map((input): [string, NodeProto] => [input, node]));
    }
  }

  #unreachable(value: string, user: NodeProto | undefined): Error {
    const { source } = this.cuts;
    const what = user ? nodeName(user) : 'the graph';
    if (this.cuts.attentionOf(value) !== undefined) return source.unsupported(what, `needs what attention ${this.cuts.attentionOf(value)} gave after attention ${this.stage - 1}`);
    if (!source.inputs.has(value)) return source.malformed(`${what} needs the value "${value}", which nothing makes`);
    return source.unsupported(what, `needs the input "${value}" after attention ${this.stage - 1}, where it is not known any more`);
  }

  /** Sizes of what lies beyond the cut are those of this stretch: [1, T] and what does not change. */
  #replacesSizes(node: NodeProto): boolean {
    if (node.op_type !== 'Shape' || this.stage === 0) return false;
    const of = node.input![0]!;
    const origin = this.cuts.origin(of);
    if (this.given.has(of) || origin.kind === 'free' || origin.kind === 'foreign') return false;
    return origin.kind === 'positions' || origin.stage !== this.stage;
  }

  #copySizes(node: NodeProto): void {
    const { source } = this.cuts;
    const sizes = this.#sizesOf(node.input![0]!);
    if (!sizes) throw source.refuse(node, `takes the sizes of "${node.input![0]}" past an attention, and the graph does not say what they are`);
    const tokens = this.graph.node('Slice', [this.sizes, this.graph.ints(1), this.graph.ints(2)]);
    const whole = this.graph.node('Concat', sizes.map((size) => (size === undefined ? tokens : this.graph.ints(size))), { axis: 0 });
    const range = [source.integer(node, 'start', 0), source.integer(node, 'end', sizes.length)];
    this.graph.node('Slice', [whole, ...range.map((bound) => this.graph.ints(bound))], {}, { outputs: [`${this.#prefix}${node.output![0]}`] });
  }

  /** Sizes of a value in one sequence of T tokens, with undefined for T. */
  #sizesOf(value: string): (number | undefined)[] | undefined {
    const { source, carried, sites } = this.cuts;
    for (let at: string | undefined = value; at !== undefined; ) {
      if (at === IDS || at === POSITIONS) return [1, undefined];
      if (carried.includes(at)) return [1, undefined, this.hiddenSize];
      const declared = source.shape(at);
      if (declared && declared.length > 1) {
        const sizes = [1, ...declared.slice(1)];
        return sizes.filter((size) => size === undefined).length <= 1 ? sizes : undefined;
      }
      const node: NodeProto | undefined = sites.some(({ output }) => output.value === at) ? undefined : source.producerOf(at, ...SAME_SIZES);
      at = node && (this.cuts.tokenInputs(node)[0] ?? inputsOf(node).find((input) => this.cuts.origin(input).kind === 'positions'));
    }
    return undefined;
  }
}

function renamed(node: NodeProto, prefix: string, nameOf: (value: string) => string): NodeProto {
  const output = (node.output ?? []).map((value) => (value === '' ? '' : `${prefix}${value}`));
  // Nodes may have no name, but not the same one.
  return { ...inner(node, nameOf), ...(node.name && { name: `${prefix}${node.name}` }), output };
}

/** A node with the values that it takes from around it renamed. */
function inner({ name, op_type, domain, input, output, attribute }: NodeProto, nameOf: (value: string) => string): NodeProto {
  return {
    ...(name !== undefined && { name }),
    ...(op_type !== undefined && { op_type }),
    ...(domain !== undefined && { domain }),
    input: (input ?? []).map((value) => (value === '' ? '' : nameOf(value))),
    output: output ?? [],
    attribute: (attribute ?? []).map((one): AttributeProto => ({
      ...one,
      ...(one.g && { g: innerGraph(one.g, nameOf) }),
      ...(one.graphs?.length && { graphs: one.graphs.map((graph) => innerGraph(graph, nameOf)) }),
    })),
  };
}

function innerGraph(graph: GraphProto, nameOf: (value: string) => string): GraphProto {
  const own = new Set([...(graph.input ?? []), ...(graph.initializer ?? [])].map(({ name }) => name ?? ''));
  for (const node of graph.node ?? []) for (const value of outputsOf(node)) own.add(value);
  const name = (value: string) => (own.has(value) ? value : nameOf(value));
  return {
    ...graph,
    node: (graph.node ?? []).map((node) => inner(node, name)),
    output: (graph.output ?? []).map((output) => ({ ...output, name: name(output.name ?? '') })),
  };
}
