import protobuf from 'protobufjs';

/** The part of the ONNX schema (onnx/onnx.proto, IR version 10) that the graphs of tests and benchmarks need. */
const { root } = protobuf.parse(
  `syntax = "proto3"; package onnx;
  message ModelProto { int64 ir_version = 1; string producer_name = 2; GraphProto graph = 7; repeated OperatorSetIdProto opset_import = 8; }
  message OperatorSetIdProto { string domain = 1; int64 version = 2; }
  message GraphProto {
    repeated NodeProto node = 1; string name = 2; repeated TensorProto initializer = 5;
    repeated ValueInfoProto input = 11; repeated ValueInfoProto output = 12;
  }
  message NodeProto { repeated string input = 1; repeated string output = 2; string name = 3; string op_type = 4; repeated AttributeProto attribute = 5; string domain = 7; }
  message AttributeProto { string name = 1; float f = 2; int64 i = 3; bytes s = 4; repeated int64 ints = 8; int32 type = 20; }
  message TensorProto { repeated int64 dims = 1; int32 data_type = 2; string name = 8; bytes raw_data = 9; }
  message ValueInfoProto { string name = 1; TypeProto type = 2; }
  message TypeProto { Tensor tensor_type = 1; message Tensor { int32 elem_type = 1; TensorShapeProto shape = 2; } }
  message TensorShapeProto { repeated Dimension dim = 1; message Dimension { int64 dim_value = 1; } }`,
  { keepCase: true },
);
const Model = root.lookupType('onnx.ModelProto');

const IR_VERSION = 10;
const ELEMENTS = { float32: 1, int8: 3, int32: 6, int64: 7, bool: 9 } as const;
export type Element = keyof typeof ELEMENTS;

/** An attribute's value. A bare number is an integer; floats are marked, because 1 and 1.0 are one value in JavaScript. */
export type Attribute = number | readonly number[] | string | { readonly float: number };

export interface NodeOptions {
  /** Operator domain; '' is the standard one. */
  domain?: string;
  /** Names of the outputs, where the default (one, generated) does not do. */
  outputs?: readonly string[];
}

/** Collects a graph node by node; values are referred to by name. `build` gives the bytes of the model. */
export class OnnxGraph {
  readonly #nodes: object[] = [];
  readonly #initializers: object[] = [];
  readonly #inputs: object[] = [];
  readonly #outputs: object[] = [];
  #names = 0;

  input(name: string, element: Element, shape: readonly number[]): string {
    this.#inputs.push(valueInfo(name, element, shape));
    return name;
  }

  /** Declares the value `name` an output of the model. */
  output(name: string, element: Element, shape: readonly number[]): void {
    this.#outputs.push(valueInfo(name, element, shape));
  }

  /** A constant tensor; the shape defaults to one dimension of all elements. */
  constant(data: Float32Array | BigInt64Array | Int32Array, shape: readonly number[] = [data.length]): string {
    const count = shape.reduce((product, size) => product * size, 1);
    if (count !== data.length) throw new Error(`Expected ${count} values for shape [${shape}] but received ${data.length}`);
    const tag = Object.prototype.toString.call(data).slice(8, -1);
    const element: Element = tag === 'Float32Array' ? 'float32' : tag === 'BigInt64Array' ? 'int64' : 'int32';
    const name = this.#name('constant');
    this.#initializers.push({
      dims: [...shape],
      data_type: ELEMENTS[element],
      name,
      raw_data: new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
    });
    return name;
  }

  /** A scalar float constant. */
  scalar(value: number): string {
    return this.constant(Float32Array.of(value), []);
  }

  /** A one-dimensional int64 constant, the form of axes, shapes and slice bounds. */
  ints(...values: number[]): string {
    return this.constant(BigInt64Array.from(values, BigInt));
  }

  /** Adds a node and returns the name of its first output. An empty input name stands for an omitted optional input. */
  node(op: string, inputs: readonly string[], attributes: Record<string, Attribute> = {}, options: NodeOptions = {}): string {
    const output = options.outputs ?? [this.#name(op)];
    this.#nodes.push({
      op_type: op,
      domain: options.domain ?? '',
      input: [...inputs],
      output: [...output],
      name: `${op}_${this.#nodes.length}`,
      attribute: Object.entries(attributes).map(([name, value]) => attribute(name, value)),
    });
    return output[0]!;
  }

  build({ opset = 21 } = {}): Uint8Array {
    const opset_import = [
      { domain: '', version: opset },
      { domain: 'com.microsoft', version: 1 },
    ];
    const graph = {
      name: 'graph',
      node: this.#nodes,
      initializer: this.#initializers,
      input: this.#inputs,
      output: this.#outputs,
    };
    return Model.encode({ ir_version: IR_VERSION, producer_name: 'spkv', opset_import, graph }).finish();
  }

  #name(stem: string): string {
    return `${stem}#${this.#names++}`;
  }
}

function valueInfo(name: string, element: Element, shape: readonly number[]): object {
  const dim = shape.map((dim_value) => ({ dim_value }));
  return { name, type: { tensor_type: { elem_type: ELEMENTS[element], shape: { dim } } } };
}

function attribute(name: string, value: Attribute): object {
  if (typeof value === 'number') return { name, type: 2, i: value };
  if (typeof value === 'string') return { name, type: 3, s: new TextEncoder().encode(value) };
  if ('float' in value) return { name, type: 1, f: value.float };
  return { name, type: 7, ints: [...value] };
}
