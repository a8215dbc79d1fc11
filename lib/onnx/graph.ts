import { packageVersion } from '../version.js';
import { type Element, elementCode } from './elements.js';
import { type AttributeProto, type GraphProto, type ModelProto, type NodeProto, type TensorProto, toNumber, type ValueInfoProto } from './schema.js';
import type { StoredTensor } from './weights-file.js';

/** What onnxruntime 1.20 and later read: ONNX 1.17. */
const IR_VERSION = 10;
const OPSET = 21;
/** The operators of onnxruntime, and ours. */
export const MICROSOFT = 'com.microsoft';
export const SPKV = 'ai.spkv';

/** An attribute's value. A bare number is an integer; floats are marked, because 1 and 1.0 are one value in JavaScript. */
export type Attribute = number | readonly number[] | string | { readonly float: number };
export type Attributes = Readonly<Record<string, Attribute>>;

/** A size: a number, or a name where it differs from run to run. */
export type Size = number | string;

/** Collects a graph node by node; values go by their names. */
export class GraphBuilder {
  readonly #graph: Required<Pick<GraphProto, 'node' | 'initializer' | 'input' | 'output'>> = { node: [], initializer: [], input: [], output: [] };
  readonly #constants = new Map<string, string>();
  readonly #tensors = new Set<string>();
  #names = 0;

  /** `base`: the model whose nodes are going to be in the graph, which says which operators it means. */
  constructor(
    readonly name: string,
    private readonly base: Pick<ModelProto, 'ir_version' | 'opset_import' | 'functions'> = { ir_version: IR_VERSION, opset_import: [{ domain: '', version: OPSET }] },
  ) {}

  input(name: string, element: Element, shape: readonly Size[]): string {
    this.#graph.input.push(valueInfo(name, element, shape));
    return name;
  }

  /** Makes `value` an output of the graph, under the name `name`. */
  output(name: string, value: string, element: Element, shape: readonly Size[]): void {
    if (name !== value) this.node('Identity', [value], {}, { outputs: [name] });
    this.#graph.output.push(valueInfo(name, element, shape));
  }

  /** A small constant, held in the graph itself; the same one is there once. */
  constant(data: Float32Array | Float64Array | BigInt64Array, shape: readonly number[] = [data.length]): string {
    const element = data instanceof Float32Array ? 'f32' : data instanceof Float64Array ? 'f64' : 'i64';
    const raw = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    const key = `${element} [${shape.join()}] ${data.join()}`;
    let name = this.#constants.get(key);
    if (name === undefined) {
      name = this.fresh('constant');
      this.#constants.set(key, name);
      this.#graph.initializer.push({ name, dims: [...shape], data_type: elementCode(element), raw_data: raw });
    }
    return name;
  }

  /** An i64 constant: axes, shapes, bounds. */
  ints(...values: number[]): string {
    return this.constant(BigInt64Array.from(values, BigInt));
  }

  /** A tensor of the weights file. */
  weight(tensor: StoredTensor): string {
    return this.tensor(externalTensor(tensor));
  }

  /** A tensor by its declaration; one of a name is there once. */
  tensor(tensor: TensorProto): string {
    const name = tensor.name!;
    if (!this.#tensors.has(name)) this.#graph.initializer.push(tensor);
    this.#tensors.add(name);
    return name;
  }

  /** Adds a node and gives the name of its first output. An empty input name stands for one that is left out. */
  node(op: string, inputs: readonly string[], attributes: Attributes = {}, options: { domain?: string; outputs?: readonly string[] } = {}): string {
    const output = options.outputs ?? [this.fresh(op)];
    this.#graph.node.push(nodeProto(`${op}_${this.#graph.node.length}`, op, inputs, output, attributes, options.domain));
    return output[0]!;
  }

  /** Adds a node that is there already. */
  append(node: NodeProto): void {
    this.#graph.node.push(node);
  }

  /** A name that no other value has. */
  fresh(stem: string): string {
    return `${stem}#${this.#names++}`;
  }

  build(): ModelProto {
    const { ir_version, opset_import = [], functions = [] } = this.base;
    const known = new Set(opset_import.map(({ domain = '' }) => domain));
    const used = new Set([MICROSOFT, SPKV].filter((name) => !known.has(name) && this.#graph.node.some(({ domain }) => domain === name)));
    return {
      ir_version: Math.max(toNumber(ir_version), IR_VERSION),
      producer_name: 'spkv',
      producer_version: packageVersion(),
      opset_import: [...opset_import, ...[...used].map((domain) => ({ domain, version: 1 }))],
      graph: { name: this.name, ...this.#graph },
      functions,
    };
  }
}

export function nodeProto(
  name: string, op: string, inputs: readonly string[], outputs: readonly string[], attributes: Attributes = {}, domain = '',
): NodeProto {
  return {
    name,
    op_type: op,
    ...(domain !== '' && { domain }),
    input: [...inputs],
    output: [...outputs],
    attribute: Object.entries(attributes).map(([key, value]) => attributeProto(key, value)),
  };
}

export function valueInfo(name: string, element: Element, shape: readonly Size[]): ValueInfoProto {
  const dim = shape.map((size) => (typeof size === 'number' ? { dim_value: size } : { dim_param: size }));
  return { name, type: { tensor_type: { elem_type: elementCode(element), shape: { dim } } } };
}

/** A tensor whose data lies in the weights file beside the graph. */
export function externalTensor({ name, element, dims, location, offset, bytes }: StoredTensor): TensorProto {
  return {
    name,
    dims: [...dims],
    data_type: elementCode(element),
    data_location: 1,
    external_data: [
      { key: 'location', value: location },
      { key: 'offset', value: String(offset) },
      { key: 'length', value: String(bytes) },
    ],
  };
}

function attributeProto(name: string, value: Attribute): AttributeProto {
  if (typeof value === 'number') return { name, type: 2, i: value };
  if (typeof value === 'string') return { name, type: 3, s: new TextEncoder().encode(value) };
  if ('float' in value) return { name, type: 1, f: value.float };
  return { name, type: 7, ints: [...value] };
}
