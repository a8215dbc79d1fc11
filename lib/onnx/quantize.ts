// Weights in blocks, as onnxruntime's MatMulNBits reads them: every row of a matrix [N, K] is cut into blocks of 32,
// and a block has one scale. A weight is scale · (q - 8) with 4 bits, scale · (q - 128) with 8; the last block of a
// row is filled up with zeros.

const { abs, floor, fround, min } = Math; // in loops over every weight of a model

/** Elements that share a scale. */
export const BLOCK = 32;

/** Weights of `bits` bits each: `packed` [N, blocks, BLOCK · bits / 8], `scales` [N, blocks]. */
export interface Blocks {
  packed: Uint8Array;
  scales: Float32Array;
}

export function blocksPerRow(k: number): number {
  return Math.ceil(k / BLOCK);
}

/** Rounds rows of K finite weights to the nearest that their blocks can express. */
export function quantize(weights: Float32Array, k: number, bits: 4 | 8): Blocks {
  const perRow = blocksPerRow(k);
  const blocks = (weights.length / k) * perRow;
  const packed = new Uint8Array((blocks * BLOCK * bits) / 8);
  const scales = new Float32Array(blocks);
  const levels = new Uint8Array(BLOCK);
  const [middle, top] = bits === 4 ? [8, 15] : [128, 255];
  let at = 0;
  for (let row = 0; row < weights.length; row += k) {
    for (let start = row; start < row + k; start += BLOCK) {
      const end = min(start + BLOCK, row + k);
      const largest = largestOf(weights, start, end);
      // With 4 bits the largest becomes -8, the end of the range that reaches further; with 8 bits it becomes ±127.
      const scale = fround(bits === 4 ? largest / -8 : abs(largest) / 127) || 0; // not -0
      scales[at / BLOCK] = scale;
      levels.fill(middle);
      const steps = scale === 0 ? 0 : 1 / scale;
      for (let i = start; i < end; i++) levels[i - start] = min(top, floor(weights[i]! * steps + middle + 0.5));
      if (bits === 8) packed.set(levels, at);
      else for (let i = 0; i < BLOCK; i += 2) packed[(at + i) / 2] = levels[i]! | (levels[i + 1]! << 4);
      at += BLOCK;
    }
  }
  return { packed, scales };
}

/** The largest by magnitude. */
function largestOf(weights: Float32Array, start: number, end: number): number {
  let largest = 0;
  let size = 0;
  for (let i = start; i < end; i++) {
    const magnitude = abs(weights[i]!);
    if (magnitude > size) [largest, size] = [weights[i]!, magnitude];
  }
  return largest;
}
