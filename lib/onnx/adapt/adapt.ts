import { abortSignal, callback, integer, number, oneOf, options, string } from '../../check.js';
import { checkOutput, WEIGHTS, writeFolder, writeForms } from '../folder.js';
import { type OnnxForm, ONNX_FORMS } from '../forms.js';
import { GraphBuilder } from '../graph.js';
import type { OnnxManifest } from '../manifest.js';
import { loadCodec, toNumber } from '../schema.js';
import { WeightsFile } from '../weights-file.js';
import { nodeSite } from './attention-nodes.js';
import { readSourceConfig } from './config.js';
import { Cuts, IDS, POSITIONS } from './cuts.js';
import { AdaptedDecoder } from './decoder.js';
import { readModel, SourceTensors } from './model-file.js';
import type { AttentionSite, Heads } from './site.js';
import { softmaxSite } from './softmax-pattern.js';
import { nodeName, type SourceGraph, subgraphs } from './source-graph.js';
import { checkPolicy, DENSE, fixedPolicy, readPredictors, type Utilities } from './utilities.js';

export interface AdaptOptions {
  /** A .safetensors file with a utility predictor for every layer, under the names of an spkv checkpoint. */
  predictors?: string;
  /** Tokens that every query sees. Defaults to what config.json says under "spkv", else 128; without predictors, `window` or `first` the model runs dense. */
  window?: number;
  /** Without predictors: so many tokens at the start of a text are kept for ever. Defaults to 0. */
  first?: number;
  /** With predictors: utility from which a pair is kept. Defaults to what config.json says under "spkv", else 0.5. */
  threshold?: number;
  /** As in {@link ExportOptions}. */
  form?: OnnxForm | 'both';
  onProgress?: (share: number) => void;
  signal?: AbortSignal;
}

const OPTION_NAMES = ['predictors', 'window', 'first', 'threshold', 'form', 'onProgress', 'signal'] as const;
const LOGITS = 'logits';
const DEFAULT_WINDOW = 128;
const DEFAULT_THRESHOLD = 0.5;
/** Operators of attention. */
const ATTENTION = /^Softmax$|Attention$/;
/** Since opset 13 axes are inputs, as the nodes that are added have them. */
const OLDEST_OPSET = 13;

/**
 * Rewrites a decoder that exists as ONNX, so that attention and cache are spkv's: attention as GroupQueryAttention or
 * MultiHeadAttention of com.microsoft, as ai.onnx::Attention, or written out with MatMul, Softmax and MatMul. The
 * directory `out` is like that of {@link exportOnnx}. Sizes and token ids come from the config.json beside the model.
 * Errors: INVALID_ARGUMENT, FILE (missing, malformed, disk full), UNSUPPORTED (with the name of the node that is not
 * understood), the reason of `signal`.
 */
export async function adaptOnnx(path: string, out: string, opts?: AdaptOptions): Promise<OnnxManifest> {
  const given = options(opts, 'adapt options', OPTION_NAMES);
  const { predictors } = given;
  if (predictors !== undefined) string(predictors, 'predictors');
  if (given.window !== undefined) integer(given.window, 'window', 1, 2 ** 20);
  if (given.first !== undefined) integer(given.first, 'first', 0, 2 ** 31 - 1);
  if (given.threshold !== undefined) number(given.threshold, 'threshold', 0, 1);
  checkPolicy(given);
  const form = oneOf(given.form ?? 'both', 'form', [...ONNX_FORMS, 'both'] as const);
  const onProgress = callback(given.onProgress, 'onProgress');
  const signal = abortSignal(given.signal, 'signal');
  string(out, 'out');
  signal?.throwIfAborted();
  await checkOutput(out);

  const source = await readModel(string(path, 'path'));
  const config = await readSourceConfig(path);
  checkInterface(source);
  const cuts = new Cuts(source, findSites(source, config.model), LOGITS);
  const file = new WeightsFile(WEIGHTS);
  const window = given.window ?? config.window ?? DEFAULT_WINDOW;
  let utilities: Utilities = DENSE;
  if (predictors !== undefined) utilities = await readPredictors(predictors, window, config.model, file);
  else if (given.window !== undefined || given.first !== undefined) utilities = fixedPolicy(window, given.first ?? 0, config.model);

  const decoder = new AdaptedDecoder(config.model, cuts, new SourceTensors(source, file), utilities, LOGITS);
  const graphs = writeForms(decoder, form, (name) => new GraphBuilder(name, source.model));
  const threshold = given.threshold ?? (predictors === undefined ? undefined : config.threshold) ?? DEFAULT_THRESHOLD;
  const manifest: OnnxManifest = {
    version: 1, dtype: 'mixed', weights: WEIGHTS, ...graphs.names, model: config.model,
    ...(utilities.window !== undefined && { spkv: { window: utilities.window, threshold } }),
  };
  await writeFolder(out, { manifest, graphs: graphs.models, weights: file, from: config.dir }, await loadCodec(), onProgress, signal);
  return manifest;
}

/** Errors: UNSUPPORTED, where the graph is not that of a decoder. */
function checkInterface(source: SourceGraph): void {
  const opset = source.model.opset_import?.find(({ domain }) => (domain ?? '') === '' || domain === 'ai.onnx')?.version;
  if (toNumber(opset) < OLDEST_OPSET) throw source.unsupported('the operator set', `is ${toNumber(opset)}, supported is ${OLDEST_OPSET} or later`);
  for (const [name, needed] of [[IDS, true], [POSITIONS, false]] as const) {
    const shape = source.inputs.has(name) ? source.shape(name) : undefined;
    if (shape ? shape.length !== 2 : needed) throw source.unsupported(`the input "${name}"`, shape ? `has ${shape.length} dimensions instead of 2 (batch, tokens)` : 'is missing: no decoder');
    if (shape?.[1] !== undefined) throw source.unsupported(`the input "${name}"`, `has ${shape[1]} tokens always, spkv needs any number`);
  }
  const outputs = (source.model.graph?.output ?? []).map(({ name }) => name ?? '');
  if (!outputs.includes(LOGITS)) throw source.unsupported(`the output "${LOGITS}"`, `is missing, there is ${outputs.slice(0, 4).join(', ')}`);
  if (source.shape(LOGITS)?.[1] === 1) throw source.unsupported(`the output "${LOGITS}"`, 'has one token always, spkv asks for those that it needs');
}

/** The attention of every layer, in order. */
function findSites(source: SourceGraph, model: Heads & { layers: number }): AttentionSite[] {
  const sites: AttentionSite[] = [];
  const other: string[] = [];
  for (const node of source.nodes) {
    const site = nodeSite(source, node, model) ?? (node.op_type === 'Softmax' ? softmaxSite(source, node, model) : undefined);
    if (site) sites.push(site);
    else if (node.op_type === 'Softmax') other.push(nodeName(node));
  }
  if (sites.length === model.layers) return sites;
  const branch = source.nodes.find((node) => subgraphs(node).some((graph) => graph.node?.some(({ op_type }) => ATTENTION.test(op_type ?? ''))));
  if (branch) throw source.refuse(branch, 'has the layers in its branches, as merged decoders do; export one with a past and without branches');
  throw source.unsupported('the graph', `has ${sites.length} attentions that spkv understands, but config.json says ${model.layers} layers${other.length > 0 ? `; not understood: ${other.slice(0, 3).join(', ')}` : ''}`);
}
