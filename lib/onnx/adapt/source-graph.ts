import { SpkvError } from '../../errors.js';
import { halfToFloat } from '../../half.js';
import { type Element, elementOf } from '../elements.js';
import { type AttributeProto, type GraphProto, type ModelProto, type NodeProto, type TensorProto, toNumber, type ValueInfoProto } from '../schema.js';
import { wholeTables } from './tables.js';

/** Operators whose output has another element type than their first input; the index of the input that has it. */
const TYPE_FROM: Readonly<Record<string, number>> = { Where: 1, DequantizeLinear: 1, MatMulIntegerToFloat: 2, DynamicQuantizeMatMul: 2 };

/** Operators that leave integers what they are. */
const RESHAPING = ['Cast', 'Identity', 'Reshape', 'Squeeze', 'Unsqueeze'];

/** A graph that others wrote, looked at: who makes a value, who takes it, what is constant. */
export class SourceGraph {
  readonly initializers = new Map<string, TensorProto>();
  readonly inputs = new Map<string, ValueInfoProto>();
  /** In an order in which every node comes after those that it needs. */
  readonly nodes: readonly NodeProto[];
  readonly #producers = new Map<string, NodeProto>();
  readonly #consumers = new Map<string, NodeProto[]>();
  readonly #infos = new Map<string, ValueInfoProto>();
  readonly #order = new Map<NodeProto, number>();

  /** Errors: FILE, where the graph is not well formed. */
  constructor(
    readonly path: string,
    readonly model: ModelProto,
  ) {
    const graph = model.graph ?? {};
    for (const tensor of graph.initializer ?? []) this.initializers.set(tensor.name ?? '', tensor);
    if (graph.sparse_initializer?.length) throw this.unsupported('the graph', 'has sparse initializers');
    for (const input of graph.input ?? []) if (!this.initializers.has(input.name ?? '')) this.inputs.set(input.name ?? '', input);
    for (const info of [...(graph.value_info ?? []), ...(graph.input ?? []), ...(graph.output ?? [])]) this.#infos.set(info.name ?? '', info);
    const nodes = wholeTables(this.#withoutConstants(graph.node ?? []), this.initializers);
    for (const node of nodes) {
      for (const name of outputsOf(node)) {
        if (this.#producers.has(name) || this.inputs.has(name) || this.initializers.has(name)) throw this.malformed(`the value "${name}" is made twice`);
        this.#producers.set(name, node);
      }
    }
    this.nodes = this.#sorted(nodes);
    for (const [index, node] of this.nodes.entries()) {
      this.#order.set(node, index);
      for (const name of new Set(inputsOf(node))) this.#consumers.set(name, [...(this.#consumers.get(name) ?? []), node]);
    }
  }

  producer(value: string): NodeProto | undefined {
    return this.#producers.get(value);
  }

  /** The node that makes `value`, if it is one of these operators. */
  producerOf(value: string, ...operators: string[]): NodeProto | undefined {
    const node = this.#producers.get(value);
    return node && operators.includes(node.op_type ?? '') ? node : undefined;
  }

  consumers(value: string): readonly NodeProto[] {
    return this.#consumers.get(value) ?? [];
  }

  /** Place of a node in `nodes`. */
  order(node: NodeProto): number {
    return this.#order.get(node)!;
  }

  /** Declared sizes of a value, with undefined for those that are not fixed; undefined where nothing is declared. */
  shape(value: string): (number | undefined)[] | undefined {
    const tensor = this.initializers.get(value);
    if (tensor) return (tensor.dims ?? []).map(toNumber);
    const shape = this.#infos.get(value)?.type?.tensor_type?.shape;
    return shape && (shape.dim ?? []).map(({ dim_value }) => (dim_value === undefined ? undefined : toNumber(dim_value)));
  }

  /** Element type of a value, as far as it can be told without knowing every operator. */
  element(value: string): Element | undefined {
    for (let at: string | undefined = value; at; ) {
      const declared = elementOf(this.initializers.get(at)?.data_type ?? this.#infos.get(at)?.type?.tensor_type?.elem_type);
      if (declared) return declared;
      const node = this.#producers.get(at);
      if (!node) return undefined;
      if (node.op_type === 'Cast') return elementOf(this.integer(node, 'to', 0));
      if (node.op_type === 'Shape') return 'i64';
      at = node.input?.[TYPE_FROM[node.op_type ?? ''] ?? 0];
    }
    return undefined;
  }

  /** The integers of a small constant, such as axes, shapes and bounds; exporters may pass it through a few nodes. */
  integers(value: string | undefined): number[] | undefined {
    let at = value ?? '';
    for (let node = this.producerOf(at, ...RESHAPING); node; node = this.producerOf(at, ...RESHAPING)) at = node.input?.[0] ?? '';
    const tensor = this.initializers.get(at);
    if (!tensor || !['i64', 'i32'].includes(elementOf(tensor.data_type) ?? '')) return undefined;
    if (tensor.int64_data?.length) return tensor.int64_data.map(toNumber);
    if (tensor.int32_data?.length) return tensor.int32_data;
    const view = viewOf(tensor);
    if (!view) return undefined;
    const wide = elementOf(tensor.data_type) === 'i64';
    return Array.from({ length: view.byteLength / (wide ? 8 : 4) }, (_, i) => (wide ? Number(view.getBigInt64(8 * i, true)) : view.getInt32(4 * i, true)));
  }

  /** The only number of a constant with one element. */
  number(value: string): number | undefined {
    const tensor = this.initializers.get(value);
    if (!tensor || (tensor.dims ?? []).some((size) => toNumber(size) !== 1)) return undefined;
    const element = elementOf(tensor.data_type);
    if (element === 'i64' || element === 'i32') return this.integers(value)?.[0];
    if (tensor.float_data?.length) return tensor.float_data[0];
    if (tensor.double_data?.length) return tensor.double_data[0];
    const view = viewOf(tensor);
    if (element === 'f32' && view?.byteLength === 4) return view.getFloat32(0, true);
    if (element === 'f64' && view?.byteLength === 8) return view.getFloat64(0, true);
    if (element === 'f16') {
      const bits = view?.byteLength === 2 ? view.getUint16(0, true) : tensor.int32_data?.[0];
      return bits === undefined ? undefined : halfToFloat(bits);
    }
    return undefined;
  }

  attribute(node: NodeProto, name: string): AttributeProto | undefined {
    return node.attribute?.find((attribute) => attribute.name === name);
  }

  integer(node: NodeProto, name: string, fallback: number): number {
    const attribute = this.attribute(node, name);
    return attribute?.i === undefined ? fallback : toNumber(attribute.i);
  }

  /** Axes or a permutation: an attribute or, in later opsets, an input. */
  list(node: NodeProto, name: string, input?: number): number[] | undefined {
    const attribute = this.attribute(node, name);
    if (attribute?.ints) return attribute.ints.map(toNumber);
    return input === undefined ? undefined : this.integers(node.input?.[input]);
  }

  /** An error about a node, by its name. */
  refuse(node: NodeProto, problem: string): SpkvError {
    return this.unsupported(nodeName(node), problem);
  }

  unsupported(what: string, problem: string): SpkvError {
    return new SpkvError('UNSUPPORTED', `${this.path}: ${what} ${problem}`);
  }

  malformed(problem: string): SpkvError {
    return new SpkvError('FILE', `${this.path}: expected a well-formed ONNX model, found that ${problem}`);
  }

  /** Constants that are nodes become initializers, so that there is one kind. */
  #withoutConstants(nodes: readonly NodeProto[]): NodeProto[] {
    return nodes.filter((node) => {
      const tensor = node.op_type === 'Constant' ? constantTensor(node) : undefined;
      const name = node.output?.[0];
      if (!tensor || !name) return true;
      if (this.initializers.has(name)) throw this.malformed(`the value "${name}" is made twice`);
      this.initializers.set(name, { ...tensor, name });
      return false;
    });
  }

  #sorted(nodes: readonly NodeProto[]): NodeProto[] {
    const sorted: NodeProto[] = [];
    const state = new Map<NodeProto, 'open' | 'done'>();
    // Without recursion, since graphs are as deep as they are long.
    for (const root of nodes) {
      const stack = [root];
      while (stack.length > 0) {
        const node = stack.at(-1)!;
        if (state.get(node) === 'done') {
          stack.pop();
          continue;
        }
        const waiting = inputsOf(node).flatMap((name) => this.#producers.get(name) ?? []).filter((other) => state.get(other) !== 'done');
        if (waiting.length === 0) {
          state.set(node, 'done');
          sorted.push(node);
          stack.pop();
        } else {
          if (state.get(node) === 'open') throw this.malformed(`${nodeName(node)} needs its own output`);
          state.set(node, 'open');
          stack.push(...waiting);
        }
      }
    }
    return sorted;
  }
}

export function nodeName({ name, op_type, output }: NodeProto): string {
  return `node "${name || output?.find((value) => value !== '') || ''}" (${op_type ?? 'no operator'})`;
}

export function outputsOf(node: NodeProto): string[] {
  return (node.output ?? []).filter((name) => name !== '');
}

/** Values that a node needs: its inputs, and what its subgraphs take from around them. */
export function inputsOf(node: NodeProto): string[] {
  const direct = (node.input ?? []).filter((name) => name !== '');
  const inner = subgraphs(node).flatMap(capturesOf);
  return inner.length === 0 ? direct : [...direct, ...inner];
}

export function subgraphs(node: NodeProto): GraphProto[] {
  return (node.attribute ?? []).flatMap(({ g, graphs }) => [...(g ? [g] : []), ...(graphs ?? [])]);
}

function capturesOf(graph: GraphProto): string[] {
  const own = new Set([...(graph.input ?? []), ...(graph.initializer ?? [])].map(({ name }) => name ?? ''));
  for (const node of graph.node ?? []) for (const name of outputsOf(node)) own.add(name);
  const used = [...(graph.node ?? []).flatMap(inputsOf), ...(graph.output ?? []).map(({ name }) => name ?? '')];
  return used.filter((name) => !own.has(name));
}

function constantTensor(node: NodeProto): TensorProto | undefined {
  const attribute = node.attribute?.[0];
  switch (attribute?.name) {
    case 'value':
      return attribute.t;
    case 'value_int':
      return { dims: [], data_type: 7, int64_data: [attribute.i ?? 0] };
    case 'value_ints':
      return { dims: [attribute.ints?.length ?? 0], data_type: 7, int64_data: attribute.ints ?? [] };
    case 'value_float':
      return { dims: [], data_type: 1, float_data: [attribute.f ?? 0] };
    case 'value_floats':
      return { dims: [attribute.floats?.length ?? 0], data_type: 1, float_data: attribute.floats ?? [] };
    default:
      return undefined;
  }
}

function viewOf({ raw_data: raw }: TensorProto): DataView | undefined {
  return raw && new DataView(raw.buffer, raw.byteOffset, raw.byteLength);
}
