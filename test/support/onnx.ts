import { type Element as OnnxElement, elementCode } from '../../lib/onnx/elements.js';
import { type Attribute, MICROSOFT, nodeProto, valueInfo } from '../../lib/onnx/graph.js';
import { loadCodec, type NodeProto, type TensorProto, type ValueInfoProto } from '../../lib/onnx/schema.js';

const codec = await loadCodec();
const IR_VERSION = 10;
const ELEMENTS = { float32: 'f32', int8: 'i8', int32: 'i32', int64: 'i64', bool: 'bool' } as const satisfies Record<string, OnnxElement>;
export type Element = keyof typeof ELEMENTS;

export interface NodeOptions {
  /** Operator domain; '' is the standard one. */
  domain?: string;
  /** Names of the outputs, where the default (one, generated) does not do. */
  outputs?: readonly string[];
}

/** Collects a graph node by node; values are referred to by name. `build` gives the bytes of the model. */
export class OnnxGraph {
  readonly #nodes: NodeProto[] = [];
  readonly #initializers: TensorProto[] = [];
  readonly #inputs: ValueInfoProto[] = [];
  readonly #outputs: ValueInfoProto[] = [];
  #names = 0;

  input(name: string, element: Element, shape: readonly number[]): string {
    this.#inputs.push(valueInfo(name, ELEMENTS[element], shape));
    return name;
  }

  /** Declares the value `name` an output of the model. */
  output(name: string, element: Element, shape: readonly number[]): void {
    this.#outputs.push(valueInfo(name, ELEMENTS[element], shape));
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
      data_type: elementCode(ELEMENTS[element]),
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
    this.#nodes.push(nodeProto(`${op}_${this.#nodes.length}`, op, inputs, output, attributes, options.domain));
    return output[0]!;
  }

  build({ opset = 21 } = {}): Uint8Array {
    const opset_import = [
      { domain: '', version: opset },
      { domain: MICROSOFT, version: 1 },
    ];
    const graph = {
      name: 'graph',
      node: this.#nodes,
      initializer: this.#initializers,
      input: this.#inputs,
      output: this.#outputs,
    };
    return codec.encode({ ir_version: IR_VERSION, producer_name: 'spkv', opset_import, graph });
  }

  #name(stem: string): string {
    return `${stem}#${this.#names++}`;
  }
}
