/** Element types of ONNX tensors: their number in TensorProto.DataType, and bits. */
const ELEMENTS = {
  f32: [1, 32],
  u8: [2, 8],
  i8: [3, 8],
  u16: [4, 16],
  i16: [5, 16],
  i32: [6, 32],
  i64: [7, 64],
  bool: [9, 8],
  f16: [10, 16],
  f64: [11, 64],
  u32: [12, 32],
  u64: [13, 64],
  bf16: [16, 16],
  f8e4m3: [17, 8],
  f8e4m3fnuz: [18, 8],
  f8e5m2: [19, 8],
  f8e5m2fnuz: [20, 8],
  u4: [21, 4],
  i4: [22, 4],
} as const;

export type Element = keyof typeof ELEMENTS;

export function elementCode(element: Element): number {
  return ELEMENTS[element][0];
}

/** The element type of a DataType number, if it is one whose data has a fixed size. */
export function elementOf(code: number | undefined): Element | undefined {
  return (Object.keys(ELEMENTS) as Element[]).find((name) => ELEMENTS[name][0] === code);
}

/** Bytes of a tensor. */
export function tensorBytes(element: Element, dims: readonly number[]): number {
  return Math.ceil((dims.reduce((product, size) => product * size, 1) * ELEMENTS[element][1]) / 8);
}
