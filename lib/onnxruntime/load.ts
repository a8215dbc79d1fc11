import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { integer, oneOf, string } from '../check.js';
import { SpkvError } from '../errors.js';
import { type CheckedOptions, checkModelOptions, type ModelOptions, openModelDevice } from '../model/load.js';
import type { Network, NetworkConfig } from '../model/network.js';
import { type OnnxManifest, readManifest } from '../onnx/manifest.js';
import type { Device } from '../ops.js';
import { loadChatTemplate } from '../text/chat-template.js';
import { loadTokenizer } from '../text/tokenizer.js';
import { TextModel } from '../text-model.js';
import { GraphNetwork } from './graph-network.js';
import { GraphSession, PartsProcess } from './native-session.js';
import { PartsNetwork } from './parts-network.js';
import { chooseRoute, type Route, ROUTES } from './route.js';
import { findRuntime, type Runtime } from './runtime.js';

/** {@link ModelOptions}, as far as they make sense here, and: */
export interface OnnxModelOptions extends Omit<ModelOptions, 'precision' | 'onProgress'> {
  /** Who runs the graph, see {@link ROUTES}. Defaults to 'auto': 'graph' where it can be had; `onWarning` is told why not. */
  route?: 'auto' | Route;
  /** Threads of onnxruntime's own pool. Defaults to those of the device ('graph') or onnxruntime's own choice ('parts'). */
  intraOpNumThreads?: number;
}

/**
 * Loads a directory that `spkv export-onnx` or `spkv adapt-onnx` wrote, to be run by the onnxruntime-node that is
 * installed, on the CPU. The model is used like one that `loadModel` of spkv gives: generate, sessions, Engine.
 *
 *   import { loadModel } from 'spkv/onnxruntime';
 *   const model = await loadModel('./exported');
 *   for await (const piece of model.generate('def main():\n')) process.stdout.write(piece);
 *
 * Errors: FILE, UNSUPPORTED (also where onnxruntime-node is missing or too old, or a graph has an operator that it does
 * not know), NATIVE, ONNXRUNTIME, DEVICE for a GPU, INVALID_ARGUMENT; the reason of `signal`.
 */
export async function loadModel(dir: string, opts?: OnnxModelOptions): Promise<TextModel> {
  string(dir, 'dir');
  const { route: wanted, intraOpNumThreads, ...rest } = opts ?? {};
  const given = checked(rest);
  const threads = intraOpNumThreads === undefined ? 0 : integer(intraOpNumThreads, 'intraOpNumThreads', 1, 1024);
  oneOf(wanted ?? 'auto', 'route', ['auto', ...ROUTES]);
  const manifest = await readManifest(dir);
  const runtime = await findRuntime();
  const route = chooseRoute(wanted ?? 'auto', dir, manifest, runtime, given.onWarning);
  const device = openCpu(given);
  let network: Network | undefined;
  try {
    network = route === 'graph'
      ? await openGraph(device, dir, manifest, runtime, threads, given.signal)
      : await openParts(device, dir, manifest, runtime, threads, given.signal);
    if (network.dense) given.onWarning?.(`${dir} has no utility predictors: it runs dense, every pair is kept`);
    const tokenizer = await loadTokenizer(dir);
    const template = tokenizer ? await loadChatTemplate(dir) : undefined;
    const { size } = await stat(join(dir, manifest.weights));
    return new TextModel({ dir, bytes: size }, device, network, given, tokenizer, template);
  } catch (error) {
    network?.dispose();
    if (device !== given.device) device.dispose();
    throw error;
  }
}

function checked(opts: Omit<OnnxModelOptions, 'route' | 'intraOpNumThreads'>): CheckedOptions {
  for (const name of ['precision', 'onProgress']) {
    if (name in opts) throw new SpkvError('INVALID_ARGUMENT', `Expected no option "${name}" for an exported model`);
  }
  return checkModelOptions(opts);
}

/** 'auto' is the CPU here. */
function openCpu(given: CheckedOptions): Device {
  const { device = 'auto' } = given;
  const name = typeof device === 'string' ? device : device?.name;
  if (typeof name === 'string' && name.startsWith('cuda')) throw new SpkvError('DEVICE', `Exported models run on the CPU, not on ${name}`);
  return openModelDevice({ ...given, device: device === 'auto' ? 'cpu' : device });
}

function configOf({ model, spkv }: OnnxManifest): NetworkConfig {
  return { ...model, bosTokenId: model.bosTokenId, spkv };
}

async function openGraph(device: Device, dir: string, manifest: OnnxManifest, { library }: Runtime, threads: number, signal?: AbortSignal): Promise<Network> {
  const session = await GraphSession.open(device, library!, join(dir, manifest.graph!), threads, signal);
  // Graphs that others exported may have shapes in them that take no empty batch.
  return new GraphNetwork(device, configOf(manifest), session, manifest.dtype !== 'mixed');
}

async function openParts(device: Device, dir: string, manifest: OnnxManifest, { dir: runtime }: Runtime, threads: number, signal?: AbortSignal): Promise<Network> {
  const config = configOf(manifest);
  const parts = manifest.parts!.map((name) => join(dir, name));
  const widths = { residual: config.hiddenSize, query: config.heads * config.headDim };
  const process = await PartsProcess.open(device, { runtime, parts, threads, widths, dense: config.spkv === undefined }, signal);
  return new PartsNetwork(device, config, process);
}

