import { open } from 'node:fs/promises';
import { SpkvError } from '../errors.js';
import { failure } from '../files.js';
import { type Element, tensorBytes } from './elements.js';

/** Tensors start at pages, so that onnxruntime can map them. */
const ALIGNMENT = 4096;

/** The data of a tensor, piece by piece. */
export type Pieces = () => AsyncIterable<Uint8Array> | Iterable<Uint8Array>;

/** A tensor with its place in the weights file. */
export interface StoredTensor {
  readonly name: string;
  readonly element: Element;
  readonly dims: readonly number[];
  /** Name of the weights file. */
  readonly location: string;
  readonly offset: number;
  readonly bytes: number;
}

/**
 * The file of weights that all graphs of a folder share. Tensors get their places when they are added, so that
 * graphs can name them; `write` then brings the data, one piece at a time.
 */
export class WeightsFile {
  readonly #tensors = new Map<string, StoredTensor & { pieces: Pieces }>();
  #end = 0;

  constructor(readonly location: string) {}

  /** Bytes of the whole file. */
  get bytes(): number {
    return this.#end;
  }

  get(name: string): StoredTensor | undefined {
    return this.#tensors.get(name);
  }

  /** A place for a tensor. `pieces` gives its data when its turn comes. */
  add(name: string, element: Element, dims: readonly number[], pieces: Pieces): StoredTensor {
    if (this.#tensors.has(name)) throw new SpkvError('INTERNAL', `tensor "${name}" was given a place in ${this.location} twice`);
    const offset = Math.ceil(this.#end / ALIGNMENT) * ALIGNMENT;
    const tensor = { name, element, dims, location: this.location, offset, bytes: tensorBytes(element, dims), pieces };
    this.#tensors.set(name, tensor);
    this.#end = offset + tensor.bytes;
    return tensor;
  }

  /** Writes the file. Errors: FILE; whatever the data throws; the reason of `signal`. */
  async write(path: string, onProgress?: (share: number) => void, signal?: AbortSignal): Promise<void> {
    const file = await open(path, 'wx').catch((error: unknown) => {
      throw failure(path, 'written', error);
    });
    let end = 0;
    const put = async (bytes: Uint8Array): Promise<void> => {
      await file.writeFile(bytes).catch((error: unknown) => {
        throw failure(path, 'written', error);
      });
      end += bytes.byteLength;
    };
    try {
      for (const { name, offset, bytes, pieces } of this.#tensors.values()) {
        if (end < offset) await put(new Uint8Array(offset - end));
        for await (const piece of pieces()) {
          signal?.throwIfAborted();
          await put(piece);
          onProgress?.(end / this.#end);
        }
        if (end !== offset + bytes) throw new SpkvError('INTERNAL', `tensor "${name}" has ${end - offset} bytes instead of ${bytes}`);
      }
      await file.sync();
    } finally {
      await file.close();
    }
  }
}
