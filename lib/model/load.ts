// From a checkpoint's directory to a network on a device: what a model is made of.
import { type Checkpoint, openCheckpoint } from '../checkpoint/checkpoint.js';
import { abortSignal, callback, integer, oneOf, options } from '../check.js';
import { SpkvError } from '../errors.js';
import * as ops from '../ops.js';
import { Device, type DeviceOptions, openDevice } from '../ops.js';
import { LlamaNetwork } from './llama-network.js';
import type { Network } from './network.js';
import { inverseFrequencies } from './rope.js';
import { loadWeights } from './weights.js';

/** Where a model runs, and what its cache may take; all optional. */
export interface ModelOptions extends Omit<DeviceOptions, 'timeProducts'> {
  /** 'auto', 'cpu', 'cuda:0' (see {@link openDevice}), or a device that is open already. Defaults to 'auto'. */
  device?: string | Device;
  /** Storage of keys and values. Defaults to the element type of the weights. */
  cacheDtype?: 'auto' | ops.CacheDType;
  /**
   * Bytes of the cache pool. On the CPU it may grow so far: a quarter of the system's memory unless told otherwise,
   * taken as it fills. On a GPU it is taken at once: nine tenths of what the weights have left free.
   */
  kvMemory?: number;
  /** Tokens that a sequence can be rewound, see {@link Sequence.rewind}. Defaults to 0. */
  slack?: number;
  /** Tokens per prefill step. Defaults to 512. */
  chunk?: number;
  /** Told the share of the weights that is loaded, 0 to 1. */
  onProgress?: (share: number) => void;
  /** Told once of what is worth knowing: no predictors, tensors that nothing reads, a GPU that cannot be used. Defaults to nobody. */
  onWarning?: (message: string) => void;
  /** Ends the loading with its reason. */
  signal?: AbortSignal;
}

const OPTION_NAMES = [
  'device', 'threads', 'pin', 'instructions', 'precision', 'cacheDtype', 'kvMemory', 'slack', 'chunk', 'onProgress', 'onWarning', 'signal',
] as const;
/** Tokens per prefill step unless told otherwise. */
export const DEFAULT_CHUNK = 512;

/** {@link ModelOptions}, checked, with the defaults that do not depend on the model filled in. */
export type CheckedOptions = ModelOptions & Required<Pick<ModelOptions, 'cacheDtype' | 'slack' | 'chunk'>>;

/** All values are checked before anything is loaded. */
export function checkModelOptions(opts: ModelOptions | undefined): CheckedOptions {
  const given = options(opts, 'model options', OPTION_NAMES);
  if (given.kvMemory !== undefined) integer(given.kvMemory, 'kvMemory', 1);
  callback(given.onProgress, 'onProgress');
  callback(given.onWarning, 'onWarning');
  abortSignal(given.signal, 'signal');
  return {
    ...given,
    cacheDtype: oneOf(given.cacheDtype ?? 'auto', 'cacheDtype', ['auto', ...ops.CACHE_DTYPES]),
    slack: integer(given.slack ?? 0, 'slack', 0, 1 << 20),
    chunk: integer(given.chunk ?? DEFAULT_CHUNK, 'chunk', 1, 1 << 16),
  };
}

/** Opens a checkpoint directory and brings its weights to the device: what {@link Model} is made of. */
export async function loadNetwork(
  dir: string, opts?: ModelOptions,
): Promise<{ checkpoint: Checkpoint; device: Device; network: Network; options: CheckedOptions }> {
  const given = checkModelOptions(opts);
  given.signal?.throwIfAborted();
  const checkpoint = await openCheckpoint(dir);
  const device = openModelDevice(given);
  const weights = await loadWeights(checkpoint, device, given.onProgress, given.signal).catch((error: unknown) => {
    if (device !== given.device) device.dispose();
    throw error;
  });
  if (weights.dense) given.onWarning?.(`${dir} has no utility predictors: it runs dense, every pair is kept`);
  const unread = checkpoint.unread();
  if (unread.length > 0) given.onWarning?.(`${dir}: nothing reads ${unread.length} tensors: ${list(unread)}`);
  const { config } = checkpoint;
  const network = new LlamaNetwork({ config, weights, inverseFrequencies: device.from(inverseFrequencies(config)) });
  return { checkpoint, device, network, options: given };
}

/** The device that the options name, or the one that they give. */
export function openModelDevice(given: ModelOptions): Device {
  const { threads, pin, instructions, precision, onWarning } = given;
  if (given.device instanceof Device) {
    const unfit = Object.entries({ threads, pin, instructions, precision }).find(([, value]) => value !== undefined);
    if (unfit) throw new SpkvError('INVALID_ARGUMENT', `Expected no option "${unfit[0]}" for a device that is open already`);
    return given.device;
  }
  return openDevice(given.device ?? 'auto', {
    ...(threads === undefined ? {} : { threads }),
    ...(pin === undefined ? {} : { pin }),
    ...(instructions === undefined ? {} : { instructions }),
    ...(precision === undefined ? {} : { precision }),
    ...(onWarning === undefined ? {} : { onWarning }),
  });
}

function list(names: readonly string[]): string {
  return names.length > 5 ? `${names.slice(0, 5).join(', ')}, ...` : names.join(', ');
}
