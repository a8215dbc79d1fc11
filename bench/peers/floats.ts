/** Element types of safetensors and GGUF files that the bench reads or writes, and their rounding from float32. */
export type FloatType = 'f32' | 'f16' | 'bf16';

export const BYTES: Record<FloatType, number> = { f32: 4, f16: 2, bf16: 2 };

/** The values as bytes of `type`, rounded to nearest, ties to even. */
export function narrow(values: Float32Array, type: FloatType): Uint8Array {
  if (type === 'f32') return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const out = new Uint16Array(values.length);
  const round = type === 'bf16' ? bf16 : f16;
  for (let i = 0; i < bits.length; i++) out[i] = round(bits[i]!);
  return new Uint8Array(out.buffer);
}

/** The inverse of {@link narrow}, for the types that checkpoints use. `bytes` must be aligned to its element. */
export function widen(bytes: Uint8Array, type: 'f32' | 'bf16'): Float32Array {
  const count = bytes.byteLength / BYTES[type];
  if (type === 'f32') return new Float32Array(bytes.buffer, bytes.byteOffset, count);
  const halves = new Uint16Array(bytes.buffer, bytes.byteOffset, count);
  const bits = new Uint32Array(count);
  for (let i = 0; i < count; i++) bits[i] = halves[i]! << 16;
  return new Float32Array(bits.buffer);
}

/** Finite values only: weights hold no NaN. */
function bf16(bits: number): number {
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
}

function f16(bits: number): number {
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude >= 0x477ff000) return sign | 0x7c00; // 65520 and above round to infinity
  if (magnitude < 0x38800000) {
    // Below 2^-14 the result is subnormal: a multiple of 2^-24, which Math rounds half up, so settle ties by hand.
    const shift = 126 - (magnitude >>> 23);
    if (shift > 24) return sign;
    const mantissa = (magnitude & 0x7fffff) | 0x800000;
    const half = 2 ** (shift - 1);
    const quotient = Math.floor(mantissa / 2 ** shift);
    const rest = mantissa - quotient * 2 ** shift;
    return sign | (quotient + (rest > half || (rest === half && quotient & 1) ? 1 : 0));
  }
  return sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13);
}
