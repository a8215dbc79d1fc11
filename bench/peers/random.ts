/** Seeded random numbers, the same on every machine. */

/** Uniform numbers in (0, 1), from a seed and a name (xoshiro128**, seeded by a hash of both). */
export function generator(seed: number, name: string): () => number {
  let [a, b, c, d] = [0, 1, 2, 3].map((lane) => hash(`${seed}/${lane}/${name}`)) as [number, number, number, number];
  return () => {
    const result = Math.imul(rotate(Math.imul(b, 5), 7), 9) >>> 0;
    const t = b << 9;
    c ^= a;
    d ^= b;
    b ^= c;
    a ^= d;
    c ^= t;
    d = rotate(d, 11);
    return (result + 0.5) / 2 ** 32;
  };
}

/** `length` values of a normal distribution with mean 0 (Box and Muller's transform). */
export function gaussian(next: () => number, length: number, std: number): Float32Array {
  const out = new Float32Array(length);
  for (let i = 0; i < length; i += 2) {
    const radius = std * Math.sqrt(-2 * Math.log(next()));
    const angle = 2 * Math.PI * next();
    out[i] = radius * Math.cos(angle);
    if (i + 1 < length) out[i + 1] = radius * Math.sin(angle);
  }
  return out;
}

/** Token ids for a prompt, the same for every engine. */
export function randomTokens(count: number, vocabulary: number): number[] {
  const next = generator(1, 'prompt');
  return Array.from({ length: count }, () => Math.floor(next() * vocabulary));
}

function rotate(x: number, bits: number): number {
  return (x << bits) | (x >>> (32 - bits));
}

/** FNV-1a with a final mix. */
function hash(text: string): number {
  let h = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193);
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  return (h ^ (h >>> 13)) >>> 0;
}
