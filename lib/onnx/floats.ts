import type { TensorInfo } from '../checkpoint/safetensors.js';
import { SpkvError } from '../errors.js';
import { fileError, withFile } from '../files.js';
import { halvesToFloats } from '../half.js';
import { bf16ToFloats } from '../tensor.js';

/** Elements that are in memory at a time. */
const PIECE = 1 << 20;

/** A checkpoint's tensor as f32, in pieces of whole rows of `row` elements. Errors: FILE, UNSUPPORTED. */
export async function* floatPieces({ file: path, name, dtype, shape, offset, bytes }: TensorInfo, row = 1): AsyncGenerator<Float32Array> {
  const convert = CONVERT[dtype];
  if (!convert) throw new SpkvError('UNSUPPORTED', `${path}: tensor "${name}" is ${dtype}; spkv reads F32, BF16 and F16`);
  const count = shape.reduce((product, size) => product * size, 1);
  const elementBytes = bytes / count;
  const piece = Math.max(1, Math.floor(PIECE / row)) * row;
  for (let start = 0; start < count; start += piece) {
    const length = Math.min(piece, count - start) * elementBytes;
    // Opened per piece: a generator that is left unfinished leaves nothing open.
    const buffer = await withFile(path, async (file) => {
      const target = new Uint8Array(length);
      const { bytesRead } = await file.read(target, 0, length, offset + start * elementBytes);
      if (bytesRead !== length) throw fileError(path, `ends before byte ${offset + start * elementBytes + length}`);
      return target.buffer;
    });
    yield convert(buffer);
  }
}

const CONVERT: Partial<Record<TensorInfo['dtype'], (buffer: ArrayBuffer) => Float32Array>> = {
  F32: (buffer) => new Float32Array(buffer),
  BF16: (buffer) => bf16ToFloats(new Uint16Array(buffer)),
  F16: (buffer) => halvesToFloats(new Uint16Array(buffer)),
};
