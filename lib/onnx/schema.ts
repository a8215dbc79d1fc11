import type Protobuf from 'protobufjs';
import { SpkvError } from '../errors.js';

/**
 * The ONNX schema (onnx/onnx.proto, IR version 11) without what only training uses. protobufjs drops fields that it
 * does not know, so whatever a model for inference may hold is here.
 */
const SCHEMA = `syntax = "proto2"; package onnx;
message ModelProto {
  optional int64 ir_version = 1; optional string producer_name = 2; optional string producer_version = 3; optional string domain = 4;
  optional int64 model_version = 5; optional string doc_string = 6; optional GraphProto graph = 7;
  repeated OperatorSetIdProto opset_import = 8; repeated StringStringEntryProto metadata_props = 14; repeated FunctionProto functions = 25;
}
message OperatorSetIdProto { optional string domain = 1; optional int64 version = 2; }
message StringStringEntryProto { optional string key = 1; optional string value = 2; }
message FunctionProto {
  optional string name = 1; repeated string input = 4; repeated string output = 5; repeated string attribute = 6; repeated NodeProto node = 7;
  optional string doc_string = 8; repeated OperatorSetIdProto opset_import = 9; optional string domain = 10;
  repeated AttributeProto attribute_proto = 11; repeated ValueInfoProto value_info = 12; optional string overload = 13;
  repeated StringStringEntryProto metadata_props = 14;
}
message GraphProto {
  repeated NodeProto node = 1; optional string name = 2; repeated TensorProto initializer = 5; optional string doc_string = 10;
  repeated ValueInfoProto input = 11; repeated ValueInfoProto output = 12; repeated ValueInfoProto value_info = 13;
  repeated TensorAnnotation quantization_annotation = 14; repeated SparseTensorProto sparse_initializer = 15;
  repeated StringStringEntryProto metadata_props = 16;
}
message TensorAnnotation { optional string tensor_name = 1; repeated StringStringEntryProto quant_parameter_tensor_names = 2; }
message NodeProto {
  repeated string input = 1; repeated string output = 2; optional string name = 3; optional string op_type = 4; repeated AttributeProto attribute = 5;
  optional string doc_string = 6; optional string domain = 7; optional string overload = 8; repeated StringStringEntryProto metadata_props = 9;
}
message AttributeProto {
  optional string name = 1; optional float f = 2; optional int64 i = 3; optional bytes s = 4; optional TensorProto t = 5; optional GraphProto g = 6;
  repeated float floats = 7; repeated int64 ints = 8; repeated bytes strings = 9; repeated TensorProto tensors = 10; repeated GraphProto graphs = 11;
  optional string doc_string = 13; optional TypeProto tp = 14; repeated TypeProto type_protos = 15; optional int32 type = 20;
  optional string ref_attr_name = 21; optional SparseTensorProto sparse_tensor = 22; repeated SparseTensorProto sparse_tensors = 23;
}
message TensorProto {
  repeated int64 dims = 1; optional int32 data_type = 2; optional Segment segment = 3; repeated float float_data = 4 [packed = true];
  repeated int32 int32_data = 5 [packed = true]; repeated bytes string_data = 6; repeated int64 int64_data = 7 [packed = true]; optional string name = 8;
  optional bytes raw_data = 9; repeated double double_data = 10 [packed = true]; repeated uint64 uint64_data = 11 [packed = true];
  optional string doc_string = 12; repeated StringStringEntryProto external_data = 13; optional int32 data_location = 14;
  repeated StringStringEntryProto metadata_props = 16;
  message Segment { optional int64 begin = 1; optional int64 end = 2; }
}
message SparseTensorProto { optional TensorProto values = 1; optional TensorProto indices = 2; repeated int64 dims = 3; }
message ValueInfoProto { optional string name = 1; optional TypeProto type = 2; optional string doc_string = 3; repeated StringStringEntryProto metadata_props = 4; }
message TypeProto {
  optional Tensor tensor_type = 1; optional Sequence sequence_type = 4; optional Map map_type = 5; optional string denotation = 6;
  optional SparseTensor sparse_tensor_type = 8; optional Optional optional_type = 9;
  message Tensor { optional int32 elem_type = 1; optional TensorShapeProto shape = 2; }
  message SparseTensor { optional int32 elem_type = 1; optional TensorShapeProto shape = 2; }
  message Sequence { optional TypeProto elem_type = 1; }
  message Optional { optional TypeProto elem_type = 1; }
  message Map { optional int32 key_type = 1; optional TypeProto value_type = 2; }
}
message TensorShapeProto { repeated Dimension dim = 1; message Dimension { optional int64 dim_value = 1; optional string dim_param = 2; optional string denotation = 3; } }
`;

/** A 64-bit integer as protobufjs gives it; a plain number when we write it. */
export type Int64 = number | { readonly low: number; readonly high: number; readonly unsigned: boolean; toString(): string };

export interface Entry {
  key: string;
  value: string;
}

export interface TensorProto {
  name?: string;
  dims?: Int64[];
  data_type?: number;
  raw_data?: Uint8Array;
  float_data?: number[];
  int32_data?: number[];
  int64_data?: Int64[];
  double_data?: number[];
  uint64_data?: Int64[];
  external_data?: Entry[];
  data_location?: number;
}

export interface AttributeProto {
  name?: string;
  type?: number;
  f?: number;
  i?: Int64;
  s?: Uint8Array;
  t?: TensorProto;
  g?: GraphProto;
  floats?: number[];
  ints?: Int64[];
  graphs?: GraphProto[];
}

export interface NodeProto {
  name?: string;
  op_type?: string;
  domain?: string;
  input?: string[];
  output?: string[];
  attribute?: AttributeProto[];
}

export interface Dimension {
  dim_value?: Int64;
  dim_param?: string;
}

export interface ValueInfoProto {
  name?: string;
  type?: { tensor_type?: { elem_type?: number; shape?: { dim?: Dimension[] } } };
}

export interface GraphProto {
  name?: string;
  node?: NodeProto[];
  initializer?: TensorProto[];
  input?: ValueInfoProto[];
  output?: ValueInfoProto[];
  value_info?: ValueInfoProto[];
  sparse_initializer?: object[];
}

export interface OperatorSet {
  domain?: string;
  version?: Int64;
}

export interface ModelProto {
  ir_version?: Int64;
  producer_name?: string;
  producer_version?: string;
  graph?: GraphProto;
  opset_import?: OperatorSet[];
  functions?: object[];
}

/** Reads and writes ONNX models. */
export interface Codec {
  encode(model: ModelProto): Uint8Array;
  /** Throws plain errors where the bytes are no protobuf message. */
  decode(bytes: Uint8Array): ModelProto;
}

let codec: Promise<Codec> | undefined;

/** Loads protobufjs, which those install who want ONNX. Errors: UNSUPPORTED, naming it. */
export function loadCodec(): Promise<Codec> {
  return (codec ??= openCodec());
}

async function openCodec(): Promise<Codec> {
  let protobuf: typeof Protobuf;
  try {
    ({ default: protobuf } = await import('protobufjs'));
  } catch (error) {
    codec = undefined;
    const { code, message } = error as NodeJS.ErrnoException;
    if (code !== 'ERR_MODULE_NOT_FOUND' || !message.includes("'protobufjs'")) throw error;
    throw new SpkvError('UNSUPPORTED', 'ONNX graphs are written with the package protobufjs, which is not installed; install it with: npm install protobufjs', { cause: error });
  }
  const type = protobuf.parse(SCHEMA, { keepCase: true }).root.lookupType('onnx.ModelProto');
  return {
    encode: (model) => type.encode(model as Record<string, unknown>).finish(),
    // Plain objects: a message has defaults for what the file does not say.
    decode: (bytes) => type.toObject(type.decode(bytes)) as ModelProto,
  };
}

/** A 64-bit integer as a number; exact up to 2^53, beyond it only large enough. */
export function toNumber(value: Int64 | undefined): number {
  return typeof value === 'number' ? value : value === undefined ? 0 : Number(value.toString());
}
