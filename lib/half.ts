// IEEE 754 binary16: a sign, 5 bits of exponent, 10 of fraction.

let table: Float32Array | undefined;

/** binary16 bits as numbers. By table, since files have thousands of millions of them. */
export function halvesToFloats(halves: Uint16Array): Float32Array {
  const numbers = (table ??= Float32Array.from({ length: 1 << 16 }, (_, bits) => halfToFloat(bits)));
  const floats = new Float32Array(halves.length);
  for (let i = 0; i < halves.length; i++) floats[i] = numbers[halves[i]!]!;
  return floats;
}

/** One binary16 as a number. */
export function halfToFloat(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** Numbers as binary16 bits, rounded to nearest even; what is too large becomes infinite. */
export function floatsToHalves(values: Float32Array): Uint16Array {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const halves = new Uint16Array(words.length);
  for (let i = 0; i < words.length; i++) {
    const sign = (words[i]! >>> 16) & 0x8000;
    const bits = words[i]! & 0x7fffffff;
    let half: number;
    if (bits > 0x7f800000) half = 0x7e00; // NaN
    else if (bits >= 0x47800000) half = 0x7c00; // 65,536 and above
    else if (bits >= 0x38800000) half = (bits - 0x38000000 + 0xfff + ((bits >>> 13) & 1)) >>> 13; // normal; may carry to infinity
    else half = roundToEven(Math.abs(values[i]!) * 2 ** 24); // subnormal: multiples of 2^-24
    halves[i] = sign | half;
  }
  return halves;
}

function roundToEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor;
}
