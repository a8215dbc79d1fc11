import { readFile, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { failure, fileError, kindOf, mismatch, withFile } from '../../files.js';
import { elementOf, tensorBytes } from '../elements.js';
import { externalTensor } from '../graph.js';
import { type ModelProto, loadCodec, type TensorProto, toNumber } from '../schema.js';
import type { Pieces, WeightsFile } from '../weights-file.js';
import { SourceGraph } from './source-graph.js';

/** Longest file that protobuf, and onnxruntime, read. */
const MAX_BYTES = 2 ** 31 - 1;
/** Tensors from this size on go to the weights file; others stay in the graphs. */
const LARGE = 1024;
const PIECE = 1 << 22;

/** Reads and decodes an ONNX file. Errors: FILE (missing, truncated, not ONNX), UNSUPPORTED. */
export async function readModel(path: string): Promise<SourceGraph> {
  const codec = await loadCodec();
  if ((await kindOf(path)) !== 'file') throw fileError(path, 'expected an ONNX file, found none');
  let bytes: Uint8Array;
  let model: ModelProto;
  try {
    const { size } = await stat(path);
    if (size > MAX_BYTES) throw mismatch(path, 'its size', `at most ${MAX_BYTES} bytes, with large weights in files of their own`, `${size}`);
    bytes = await readFile(path);
  } catch (error) {
    throw (error as NodeJS.ErrnoException).syscall === undefined ? error : failure(path, 'read', error);
  }
  try {
    model = codec.decode(bytes);
  } catch (error) {
    throw fileError(path, `expected an ONNX model, found other or truncated data (${(error as Error).message})`, error);
  }
  if (!model.graph || !model.graph.node?.length || !model.opset_import?.length) throw fileError(path, 'expected an ONNX model, found one without nodes or operator sets');
  return new SourceGraph(path, model);
}

/**
 * The tensors of a source graph, under names that are not those of anything else: large ones get a place in the
 * weights file, the others stay as they are.
 */
export class SourceTensors {
  readonly #declared = new Map<string, TensorProto>();

  constructor(
    private readonly source: SourceGraph,
    private readonly file: WeightsFile,
  ) {}

  /** The tensor as a graph that we write declares it. Errors: FILE, where its data does not lie where it says. */
  declare(name: string): TensorProto {
    let declared = this.#declared.get(name);
    if (!declared) {
      declared = this.#declare({ ...this.source.initializers.get(name)!, name: `source/${name}` });
      this.#declared.set(name, declared);
    }
    return declared;
  }

  #declare(tensor: TensorProto & { name: string }): TensorProto {
    const element = elementOf(tensor.data_type);
    const dims = (tensor.dims ?? []).map(toNumber);
    const external = tensor.data_location === 1;
    if (!element) {
      if (external) throw this.source.unsupported(`tensor "${tensor.name}"`, `has external data of the element type ${tensor.data_type}`);
      return tensor;
    }
    const bytes = tensorBytes(element, dims);
    if (!Number.isSafeInteger(bytes) || dims.some((size) => !(size >= 0))) throw this.source.malformed(`tensor "${tensor.name}" has the sizes [${dims.join(', ')}]`);
    if (!external && (tensor.raw_data === undefined || bytes < LARGE)) return tensor;
    const pieces = external ? this.#external(tensor, bytes) : inline(this.#checked(tensor, bytes));
    return externalTensor(this.file.add(tensor.name, element, dims, pieces));
  }

  #checked(tensor: TensorProto, bytes: number): Uint8Array {
    const raw = tensor.raw_data!;
    if (raw.byteLength !== bytes) throw this.source.malformed(`tensor "${tensor.name}" has ${raw.byteLength} bytes instead of ${bytes}`);
    return raw;
  }

  #external(tensor: TensorProto, bytes: number): Pieces {
    const entry = (key: string) => tensor.external_data?.find((item) => item.key === key)?.value;
    const location = entry('location') ?? '';
    const offset = Number(entry('offset') ?? 0);
    const length = Number(entry('length') ?? bytes);
    // A plain path below the model: a file must not reach outside its directory.
    if (location === '' || /^[/\\]|^[a-z]:|(^|[/\\])\.\.([/\\]|$)|\0/i.test(location)) {
      throw this.source.malformed(`tensor "${tensor.name}" has its data in "${location}", which is no file beside it`);
    }
    if (!Number.isSafeInteger(offset) || offset < 0 || length !== bytes) {
      throw this.source.malformed(`tensor "${tensor.name}" has ${length} bytes at ${offset} instead of ${bytes}`);
    }
    return () => filePieces(join(dirname(this.source.path), location), offset, bytes);
  }
}

function inline(data: Uint8Array): Pieces {
  return () => [data];
}

async function* filePieces(path: string, offset: number, bytes: number): AsyncGenerator<Uint8Array> {
  for (let start = 0; start < bytes; start += PIECE) {
    const length = Math.min(PIECE, bytes - start);
    yield await withFile(path, async (file) => {
      const target = new Uint8Array(length);
      const { bytesRead } = await file.read(target, 0, length, offset + start);
      if (bytesRead !== length) throw mismatch(path, 'the weights', `${length} bytes at ${offset + start}`, `${bytesRead}`);
      return target;
    });
  }
}
