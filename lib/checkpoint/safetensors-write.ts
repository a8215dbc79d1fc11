import { randomBytes } from 'node:crypto';
import { open, rename, rm, type FileHandle } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { invalid, oneOf, string } from '../check.js';
import { SpkvError } from '../errors.js';
import { elementBytes, FILE_DTYPES, tensorBytes, type FileDtype } from './dtype.js';
import { failure } from '../files.js';
import { isObject, show } from '../json.js';
import { MAX_HEADER_BYTES } from './safetensors.js';

/** One tensor to write. The data is row-major and little-endian. */
export interface TensorToWrite {
  readonly name: string;
  readonly dtype: FileDtype;
  readonly shape: readonly number[];
  /** The data, or a function that gives it when its turn comes, so that one tensor at a time is in memory. */
  readonly data: ArrayBufferView | (() => ArrayBufferView | Promise<ArrayBufferView>);
}

/**
 * Writes a .safetensors file. It appears at `path` only when it is complete: the data goes to a file beside it,
 * which then takes its name. Tensors are laid out by falling element size, so that all are aligned.
 * Errors: 'INVALID_ARGUMENT', 'SHAPE' (data of another length than dtype and shape say), 'FILE'.
 */
export async function writeSafetensors(
  path: string,
  tensors: Iterable<TensorToWrite>,
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  string(path, 'path');
  const { header, ordered } = layOut(tensors, metadata);
  const temporary = join(dirname(path), `.${basename(path)}.${randomBytes(6).toString('hex')}.tmp`);
  let file: FileHandle | undefined;
  try {
    file = await open(temporary, 'wx');
    await file.writeFile(header);
    for (const tensor of ordered) await file.writeFile(await bytesOf(tensor));
    await file.sync();
    await file.close();
    file = undefined;
    await rename(temporary, path);
  } catch (error) {
    await file?.close().catch(() => {});
    await rm(temporary, { force: true }).catch(() => {});
    if (error instanceof SpkvError) throw error;
    // An error of a data function is the caller's own; an error of the file system has an errno.
    if ((error as NodeJS.ErrnoException)?.syscall === undefined) throw error;
    throw failure(path, 'written', error);
  }
}

function layOut(tensors: Iterable<TensorToWrite>, metadata: unknown): { header: Buffer; ordered: TensorToWrite[] } {
  if (!isObject(metadata) || Object.values(metadata).some((value) => typeof value !== 'string')) {
    throw invalid('an object of strings', 'metadata', metadata);
  }
  const ordered: TensorToWrite[] = [];
  const names = new Set<string>();
  for (const tensor of tensors) {
    checkTensor(tensor);
    if (names.has(tensor.name)) throw invalid('every tensor name once', 'tensors', tensor.name);
    names.add(tensor.name);
    ordered.push(tensor);
  }
  ordered.sort((a, b) => elementBytes(b.dtype) - elementBytes(a.dtype) || (a.name < b.name ? -1 : 1));

  // A plain object would treat the name "__proto__" specially.
  const entries: string[] = [];
  if (Object.keys(metadata).length > 0) entries.push(`"__metadata__":${JSON.stringify(metadata)}`);
  let offset = 0;
  for (const { name, dtype, shape } of ordered) {
    const end = offset + tensorBytes(dtype, shape)!;
    entries.push(`${JSON.stringify(name)}:${JSON.stringify({ dtype, shape, data_offsets: [offset, end] })}`);
    offset = end;
  }
  const json = Buffer.from(`{${entries.join(',')}}`);
  const padded = Math.ceil(json.length / 8) * 8; // the data starts at a multiple of 8
  if (padded > MAX_HEADER_BYTES) throw invalid(`tensor names and metadata of at most ${MAX_HEADER_BYTES} bytes`, 'tensors', padded);
  const header = Buffer.alloc(8 + padded, ' ');
  header.writeBigUInt64LE(BigInt(padded));
  json.copy(header, 8);
  return { header, ordered };
}

function checkTensor(tensor: TensorToWrite): void {
  if (!isObject(tensor)) throw invalid('objects with name, dtype, shape and data', 'tensors', tensor);
  const name = string(tensor.name, 'tensors[].name');
  if (name === '__metadata__') throw invalid('another name', 'tensors[].name', name);
  oneOf(tensor.dtype, `dtype of tensor "${name}"`, FILE_DTYPES);
  const { shape } = tensor;
  if (!Array.isArray(shape) || !shape.every((size) => Number.isSafeInteger(size) && size >= 0)) {
    throw invalid('an array of non-negative integers', `shape of tensor "${name}"`, shape);
  }
  if (tensorBytes(tensor.dtype, shape) === undefined) throw invalid('a size that a file can have', `shape of tensor "${name}"`, show(shape));
  if (typeof tensor.data !== 'function') bytesOfView(tensor, tensor.data);
}

async function bytesOf(tensor: TensorToWrite): Promise<Uint8Array> {
  return bytesOfView(tensor, typeof tensor.data === 'function' ? await tensor.data() : tensor.data);
}

function bytesOfView(tensor: TensorToWrite, view: ArrayBufferView): Uint8Array {
  if (!ArrayBuffer.isView(view)) throw invalid('a typed array', `data of tensor "${tensor.name}"`, view);
  const expected = tensorBytes(tensor.dtype, tensor.shape)!;
  if (view.byteLength !== expected) {
    throw new SpkvError(
      'SHAPE',
      `Expected ${expected} bytes (${tensor.dtype} ${show(tensor.shape)}) for data of tensor "${tensor.name}" but received ${view.byteLength}`,
    );
  }
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}
