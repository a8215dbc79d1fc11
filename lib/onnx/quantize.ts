// Weights in blocks, as onnxruntime's MatMulNBits reads them: every row of a matrix [N, K] is cut into blocks of 32,
// and a block has one scale. A weight is scale · (q - 8) with 4 bits, scale · (q - 128) with 8; the last block of a
// row is filled up with zeros.

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
  const blockBytes = (BLOCK * bits) / 8;
  const packed = new Uint8Array(blocks * blockBytes);
  const scales = new Float32Array(blocks);
  const levels = new Uint8Array(BLOCK);
  for (let block = 0; block < blocks; block++) {
    const start = Math.floor(block / perRow) * k + (block % perRow) * BLOCK;
    const end = Math.min(start + BLOCK, (Math.floor(block / perRow) + 1) * k);
    scales[block] = bits === 4 ? levels4(levels, weights, start, end) : levels8(levels, weights, start, end);
    const target = packed.subarray(block * blockBytes, (block + 1) * blockBytes);
    if (bits === 8) target.set(levels);
    else for (let i = 0; i < BLOCK / 2; i++) target[i] = levels[2 * i]! | (levels[2 * i + 1]! << 4);
  }
  return { packed, scales };
}

/** The largest weight by magnitude becomes -8, the end of the range that reaches further. Returns the scale. */
function levels4(levels: Uint8Array, weights: Float32Array, start: number, end: number): number {
  levels.fill(8);
  let largest = 0;
  for (let i = start; i < end; i++) if (Math.abs(weights[i]!) > Math.abs(largest)) largest = weights[i]!;
  const scale = Math.fround(largest / -8);
  if (scale === 0) return 0;
  for (let i = start; i < end; i++) levels[i - start] = Math.min(15, Math.round(weights[i]! / scale) + 8);
  return scale;
}

/** The largest weight by magnitude becomes 127 or -127. Returns the scale. */
function levels8(levels: Uint8Array, weights: Float32Array, start: number, end: number): number {
  levels.fill(128);
  let largest = 0;
  for (let i = start; i < end; i++) largest = Math.max(largest, Math.abs(weights[i]!));
  const scale = Math.fround(largest / 127);
  if (scale === 0) return 0;
  for (let i = start; i < end; i++) levels[i - start] = Math.min(255, Math.round(weights[i]! / scale) + 128);
  return scale;
}
