import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { string } from '../check.js';
import { failure, fileError, kindOf, mismatch } from '../files.js';
import { isObject, readOptionalJson, show } from '../json.js';
import { parseConfig, withGenerationConfig, type ModelConfig } from './config.js';
import { readSafetensorsHeader, type SafetensorsHeader, type TensorInfo } from './safetensors.js';

const SINGLE = 'model.safetensors';
const INDEX = 'model.safetensors.index.json';

/** Buffers that old checkpoints hold although they follow from the config: not a loss if nothing reads them. */
const DERIVED = /\.rotary_emb\.inv_freq$/;

/** An open checkpoint: its config and where its tensors lie. The data of the tensors is not read. */
export class Checkpoint {
  readonly #read = new Set<string>();

  constructor(
    /** The directory it was opened from. */
    readonly dir: string,
    /** The file that lists the tensors: the only weights file, or the index of the shards. */
    readonly listing: string,
    readonly config: ModelConfig,
    readonly tensors: ReadonlyMap<string, TensorInfo>,
    /** Tensors that lie in a shard although the index does not place them there. They are not in `tensors`. */
    readonly unlisted: readonly TensorInfo[],
    /** Whether there is a tokenizer.json; without one the model works with token ids. */
    readonly hasTokenizer: boolean,
  ) {}

  /** Paths of the weights files. */
  get files(): string[] {
    return [...new Set([...this.tensors.values()].map((tensor) => tensor.file))];
  }

  /** Bytes of all tensors. */
  get bytes(): number {
    let sum = 0;
    for (const tensor of this.tensors.values()) sum += tensor.bytes;
    return sum;
  }

  /**
   * The tensor `name`, which must have `expectedShape`; remembers that it was read.
   * Errors: 'FILE', naming file, tensor, expected and found shape.
   */
  tensor(name: string, expectedShape: readonly number[]): TensorInfo {
    const tensor = this.tensors.get(name);
    if (!tensor) throw mismatch(this.listing, `tensor "${name}"`, `shape ${show(expectedShape)}`, 'no such tensor');
    if (tensor.shape.length !== expectedShape.length || tensor.shape.some((size, i) => size !== expectedShape[i])) {
      throw mismatch(tensor.file, `tensor "${name}"`, `shape ${show(expectedShape)}`, `shape ${show(tensor.shape)}`);
    }
    this.#read.add(name);
    return tensor;
  }

  /** Names of the tensors that nothing has read, in file order; those of `unlisted` with their file. */
  unread(): string[] {
    const names = [...this.tensors.keys()].filter((name) => !this.#read.has(name) && !DERIVED.test(name));
    return [...names, ...this.unlisted.map((tensor) => `${tensor.name} (in ${tensor.file}, not in the index)`)];
  }
}

/**
 * Opens a Hugging Face checkpoint directory: config.json, generation_config.json if there, and the headers of
 * model.safetensors or of the shards that model.safetensors.index.json names.
 * Errors: 'FILE' (missing, malformed, truncated, mismatched), 'UNSUPPORTED' (see parseConfig).
 */
export async function openCheckpoint(dir: string): Promise<Checkpoint> {
  string(dir, 'dir');
  const kind = await kindOf(dir);
  if (kind !== 'directory') throw fileError(dir, `expected a checkpoint directory, found ${kind === undefined ? 'nothing' : 'a file'}`);
  const config = await readConfig(dir);
  const hasTokenizer = (await kindOf(join(dir, 'tokenizer.json'))) === 'file';
  const single = join(dir, SINGLE);
  if ((await kindOf(single)) !== undefined) {
    const { tensors } = await readSafetensorsHeader(single);
    return new Checkpoint(dir, single, config, tensors, [], hasTokenizer);
  }
  const index = join(dir, INDEX);
  const json = await readOptionalJson(index);
  if (json === undefined) throw await noWeights(dir);
  const { tensors, unlisted } = await readShards(dir, index, json['weight_map']);
  return new Checkpoint(dir, index, config, tensors, unlisted, hasTokenizer);
}

async function readConfig(dir: string): Promise<ModelConfig> {
  const path = join(dir, 'config.json');
  const json = await readOptionalJson(path);
  if (json === undefined) throw fileError(path, 'expected a file, found nothing');
  const config = parseConfig(json, path);
  const generationPath = join(dir, 'generation_config.json');
  const generation = await readOptionalJson(generationPath);
  return generation === undefined ? config : withGenerationConfig(config, generation, generationPath);
}

async function noWeights(dir: string): Promise<Error> {
  let names: string[];
  try {
    names = await readdir(dir);
  } catch (error) {
    return failure(dir, 'listed', error);
  }
  const other = names.filter((name) => /\.(bin|pth?|gguf|onnx|safetensors)$/.test(name)).slice(0, 3);
  return fileError(dir, `expected ${SINGLE} or ${INDEX}, found ${other.length > 0 ? `only ${other.join(', ')}` : 'neither'}`);
}

async function readShards(
  dir: string,
  index: string,
  weightMap: unknown,
): Promise<{ tensors: Map<string, TensorInfo>; unlisted: TensorInfo[] }> {
  if (!isObject(weightMap)) throw mismatch(index, '"weight_map"', 'an object from tensor names to file names', show(weightMap));
  const shards = new Map<string, SafetensorsHeader>();
  const tensors = new Map<string, TensorInfo>();
  for (const [name, file] of Object.entries(weightMap)) {
    if (!isShardName(file)) throw mismatch(index, `"weight_map" of tensor "${name}"`, 'the name of a .safetensors file beside it', show(file));
    let shard = shards.get(file);
    if (!shard) {
      shard = await readSafetensorsHeader(join(dir, file));
      shards.set(file, shard);
    }
    const tensor = shard.tensors.get(name);
    if (!tensor) throw mismatch(shard.path, `tensor "${name}"`, `a tensor, as ${INDEX} says`, 'no such tensor');
    tensors.set(name, tensor);
  }
  const unlisted = [...shards.values()].flatMap((shard) => [...shard.tensors.values()].filter((tensor) => tensors.get(tensor.name) !== tensor));
  return { tensors, unlisted };
}

/** A plain file name: an index must not reach outside its directory. */
function isShardName(name: unknown): name is string {
  return typeof name === 'string' && /^[^/\\:\0]+\.safetensors$/.test(name);
}
