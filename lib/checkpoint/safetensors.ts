import type { FileHandle } from 'node:fs/promises';
import { FILE_DTYPES, isFileDtype, tensorBytes, type FileDtype } from './dtype.js';
import { decodeText, mismatch, withFile } from '../files.js';
import { isObject, parseJsonObject, show } from '../json.js';

/** Longest header that is accepted, in bytes; the reference implementation has the same limit. */
export const MAX_HEADER_BYTES = 100_000_000;

/** Where one tensor lies in a file. The data is row-major and little-endian. */
export interface TensorInfo {
  readonly name: string;
  /** Path of the file that holds it. */
  readonly file: string;
  readonly dtype: FileDtype;
  readonly shape: readonly number[];
  /** First byte of the data, counted from the start of the file. */
  readonly offset: number;
  /** Length of the data in bytes. */
  readonly bytes: number;
}

export interface SafetensorsHeader {
  readonly path: string;
  /** First byte after the header, counted from the start of the file. */
  readonly dataStart: number;
  /** Length of the whole file. */
  readonly fileBytes: number;
  readonly metadata: Readonly<Record<string, string>>;
  /** All tensors in the order of their data. */
  readonly tensors: ReadonlyMap<string, TensorInfo>;
}

/**
 * Reads and checks the header of a .safetensors file: 8 bytes with its length (little-endian), then JSON, then
 * the data. The data is not read. Errors: 'FILE', naming file, tensor, what was expected and what was found.
 */
export async function readSafetensorsHeader(path: string): Promise<SafetensorsHeader> {
  return withFile(path, async (file) => {
    const fileBytes = (await file.stat()).size;
    if (fileBytes < 8) throw mismatch(path, 'the file', 'at least the 8 bytes of a safetensors header length', `${fileBytes} bytes`);
    const length = (await readExactly(file, 0, 8, path)).readBigUInt64LE();
    if (length < 2n || length > BigInt(MAX_HEADER_BYTES)) {
      throw mismatch(path, 'the header length', `2 to ${MAX_HEADER_BYTES} bytes`, `${length} (is this a safetensors file?)`);
    }
    const headerBytes = Number(length);
    if (8 + headerBytes > fileBytes) {
      throw mismatch(path, 'the file', `at least ${8 + headerBytes} bytes, as its header length says`, `${fileBytes} bytes (truncated?)`);
    }
    const text = decodeText(await readExactly(file, 8, headerBytes, path), path);
    return parseHeader(text, path, 8 + headerBytes, fileBytes);
  });
}

async function readExactly(file: FileHandle, position: number, bytes: number, path: string): Promise<Buffer> {
  const buffer = Buffer.alloc(bytes);
  let filled = 0;
  while (filled < bytes) {
    const { bytesRead } = await file.read(buffer, filled, bytes - filled, position + filled);
    // The file may shrink after its size was asked for.
    if (bytesRead === 0) throw mismatch(path, 'the header', `${bytes} bytes at ${position}`, `${filled} bytes`);
    filled += bytesRead;
  }
  return buffer;
}

function parseHeader(text: string, path: string, dataStart: number, fileBytes: number): SafetensorsHeader {
  const header = parseJsonObject(text, `${path} (header)`);
  const metadata = parseMetadata(header['__metadata__'], path);
  const found: TensorInfo[] = [];
  for (const [name, entry] of Object.entries(header)) {
    if (name !== '__metadata__') found.push(parseTensor(name, entry, path, dataStart, fileBytes));
  }
  // Empty tensors share their offset with the next tensor, so the end decides where the offsets are equal.
  found.sort((a, b) => a.offset - b.offset || a.bytes - b.bytes);
  let end = dataStart;
  for (const tensor of found) {
    if (tensor.offset !== end) {
      const problem = tensor.offset < end ? 'overlaps the tensor before it' : 'leaves a gap after the tensor before it';
      throw mismatch(path, `the data of tensor "${tensor.name}"`, `a start at ${end - dataStart}`, `${tensor.offset - dataStart}: it ${problem}`);
    }
    end += tensor.bytes;
  }
  if (end !== fileBytes) throw mismatch(path, 'the file', `${end} bytes, where the last tensor ends`, `${fileBytes} bytes`);
  return { path, dataStart, fileBytes, metadata, tensors: new Map(found.map((tensor) => [tensor.name, tensor])) };
}

function parseMetadata(value: unknown, path: string): Record<string, string> {
  if (value === undefined) return {};
  if (!isObject(value)) throw mismatch(path, '"__metadata__"', 'an object of strings', show(value));
  for (const [key, item] of Object.entries(value)) {
    if (typeof item !== 'string') throw mismatch(path, `"${key}" in "__metadata__"`, 'a string', show(item));
  }
  return value as Record<string, string>;
}

function parseTensor(name: string, entry: unknown, path: string, dataStart: number, fileBytes: number): TensorInfo {
  const wrong = (field: string, expected: string, found: string) => mismatch(path, `${field} of tensor "${name}"`, expected, found);
  if (!isObject(entry)) throw mismatch(path, `tensor "${name}"`, 'an object with dtype, shape and data_offsets', show(entry));
  const { dtype, shape, data_offsets: offsets } = entry;
  if (!isFileDtype(dtype)) throw wrong('dtype', `one of ${FILE_DTYPES.join(', ')}`, show(dtype));
  if (!isSizeList(shape)) throw wrong('shape', 'an array of non-negative integers', show(shape));
  if (!isSizeList(offsets) || offsets.length !== 2) throw wrong('data_offsets', 'two non-negative integers', show(offsets));
  const [begin, end] = offsets as [number, number];
  if (end < begin) throw wrong('data_offsets', 'an end not before its begin', show(offsets));
  const dataBytes = fileBytes - dataStart;
  if (end > dataBytes) throw wrong('data_offsets', `an end of at most ${dataBytes}, the data in the file`, `${end} (truncated?)`);
  const bytes = tensorBytes(dtype, shape);
  if (bytes === undefined) throw wrong('shape', 'a size that a file can have', show(shape));
  if (bytes !== end - begin) throw wrong('data', `${bytes} bytes (${dtype} ${show(shape)})`, `${end - begin} bytes`);
  return { name, file: path, dtype, shape, offset: dataStart + begin, bytes };
}

function isSizeList(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((item) => Number.isSafeInteger(item) && item >= 0);
}

