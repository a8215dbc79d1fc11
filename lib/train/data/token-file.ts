import { open, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { failure, fileError } from '../../files.js';

// A token file is a directory with three files. Tokens of all documents lie one after the other in tokens.bin, as
// u16 where the vocabulary allows it and else as u32; documents.bin has one record per document; dataset.json says
// what it was made from, and how far the making has come.

export const TOKENS = 'tokens.bin';
export const DOCUMENTS = 'documents.bin';
export const STATE = 'dataset.json';

/** End of a document in tokens (f64), its file and its line (u32); all little-endian. */
export const DOCUMENT_BYTES = 16;

/** Bytes of a token in a file for this vocabulary. */
export function tokenBytes(vocabSize: number): 2 | 4 {
  return vocabSize <= 1 << 16 ? 2 : 4;
}

export function packTokens(ids: readonly number[], bytes: 2 | 4): Buffer {
  const array = bytes === 2 ? Uint16Array.from(ids) : Uint32Array.from(ids);
  return Buffer.from(array.buffer);
}

export function packDocument(end: number, file: number, line: number): Buffer {
  const record = Buffer.alloc(DOCUMENT_BYTES);
  record.writeDoubleLE(end, 0);
  record.writeUInt32LE(file, 8);
  record.writeUInt32LE(line, 12);
  return record;
}

/** Tokens on disk, read in stretches; only the bounds of the documents are in memory. */
export class TokenFile implements AsyncDisposable {
  readonly dir: string;
  /** Names of the files that the documents came from. */
  readonly files: readonly string[];
  /** Of what it was made from. */
  readonly fingerprint: string;
  /** Document d is [ends[d - 1], ends[d]), the first from 0. */
  readonly ends: Float64Array;
  /** Index in `files` for each document. */
  readonly fileOf: Uint32Array;
  readonly lineOf: Uint32Array;
  readonly #bytes: 2 | 4;
  readonly #handle: FileHandle;

  private constructor(dir: string, files: readonly string[], fingerprint: string, records: Buffer, bytes: 2 | 4, handle: FileHandle) {
    const count = records.length / DOCUMENT_BYTES;
    this.dir = dir;
    this.files = files;
    this.fingerprint = fingerprint;
    this.ends = Float64Array.from({ length: count }, (_, d) => records.readDoubleLE(d * DOCUMENT_BYTES));
    this.fileOf = Uint32Array.from({ length: count }, (_, d) => records.readUInt32LE(d * DOCUMENT_BYTES + 8));
    this.lineOf = Uint32Array.from({ length: count }, (_, d) => records.readUInt32LE(d * DOCUMENT_BYTES + 12));
    this.#bytes = bytes;
    this.#handle = handle;
  }

  /** @internal Use prepareTokens. */
  static async open(
    dir: string, files: readonly string[], fingerprint: string, bytes: 2 | 4, tokens: number, documents: number,
  ): Promise<TokenFile> {
    const path = join(dir, TOKENS);
    let handle: FileHandle | undefined;
    try {
      const index = await open(join(dir, DOCUMENTS), 'r');
      const records = await index.readFile().finally(() => index.close());
      handle = await open(path, 'r');
      const { size } = await handle.stat();
      if (size !== tokens * bytes) throw fileError(path, `expected ${tokens * bytes} bytes, found ${size}; remove ${dir} to make it again`);
      if (records.length !== documents * DOCUMENT_BYTES) {
        throw fileError(join(dir, DOCUMENTS), `expected ${documents} documents, found ${records.length / DOCUMENT_BYTES}; remove ${dir} to make it again`);
      }
      return new TokenFile(dir, files, fingerprint, records, bytes, handle);
    } catch (error) {
      await handle?.close();
      throw (error as NodeJS.ErrnoException).syscall === undefined ? error : failure(path, 'read', error);
    }
  }

  get documents(): number {
    return this.ends.length;
  }

  get tokens(): number {
    return this.ends.at(-1) ?? 0;
  }

  /** First token of a document. */
  start(document: number): number {
    return document === 0 ? 0 : this.ends[document - 1]!;
  }

  length(document: number): number {
    return this.ends[document]! - this.start(document);
  }

  /** Writes the tokens [start, start + count) to `out` at `at`. Errors: FILE. */
  async read(start: number, count: number, out: Int32Array, at: number): Promise<void> {
    const buffer = Buffer.alloc(count * this.#bytes);
    for (let filled = 0; filled < buffer.length; ) {
      const { bytesRead } = await this.#handle.read(buffer, filled, buffer.length - filled, start * this.#bytes + filled);
      if (bytesRead === 0) throw fileError(join(this.dir, TOKENS), `expected ${this.tokens} tokens, found fewer: the file was changed`);
      filled += bytesRead;
    }
    const { buffer: memory, byteOffset } = buffer;
    out.set(this.#bytes === 2 ? new Uint16Array(memory, byteOffset, count) : new Uint32Array(memory, byteOffset, count), at);
  }

  async dispose(): Promise<void> {
    await this.#handle.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }
}
