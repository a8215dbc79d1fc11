/** Bits per element of every element type that the safetensors format knows. */
const BITS = new Map([
  ['BOOL', 8],
  ['U8', 8],
  ['I8', 8],
  ['F8_E5M2', 8],
  ['F8_E4M3', 8],
  ['F8_E8M0', 8],
  ['I16', 16],
  ['U16', 16],
  ['F16', 16],
  ['BF16', 16],
  ['I32', 32],
  ['U32', 32],
  ['F32', 32],
  ['I64', 64],
  ['U64', 64],
  ['F64', 64],
  ['C64', 64],
] as const);

/** An element type by its name in a safetensors header. */
export type FileDtype = typeof BITS extends Map<infer K, number> ? K : never;

export const FILE_DTYPES: readonly FileDtype[] = [...BITS.keys()];

export function isFileDtype(value: unknown): value is FileDtype {
  return BITS.has(value as FileDtype);
}

/** Bytes of one element. */
export function elementBytes(dtype: FileDtype): number {
  return BITS.get(dtype)! / 8;
}

/** Bytes of a tensor, or undefined if that is not a safe integer. Dimensions must be non-negative integers. */
export function tensorBytes(dtype: FileDtype, shape: readonly number[]): number | undefined {
  let count = 1;
  for (const size of shape) {
    count *= size;
    if (!Number.isSafeInteger(count)) return undefined;
  }
  const bytes = count * elementBytes(dtype);
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}
