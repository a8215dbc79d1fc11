import { openCheckpoint } from '../checkpoint/checkpoint.js';
import type { ModelConfig } from '../checkpoint/config.js';
import { checkedWeightPlan } from '../checkpoint/weights.js';
import { abortSignal, callback, oneOf, options, string } from '../check.js';
import { checkOutput, WEIGHTS, writeFolder, writeForms } from './folder.js';
import { type OnnxForm, ONNX_FORMS } from './forms.js';
import { GraphBuilder } from './graph.js';
import type { OnnxManifest } from './manifest.js';
import { Network } from './network.js';
import { loadCodec } from './schema.js';
import { ONNX_DTYPES, type OnnxDtype, Weights } from './weights.js';
import { WeightsFile } from './weights-file.js';

/** What is to be written, and in which form; all optional. */
export interface ExportOptions {
  /** How the matrices are stored: f32, f16, or in blocks of 8 or 4 bits. Defaults to 'f32'. */
  dtype?: OnnxDtype;
  /** 'parts': split at the attention; 'graph': one graph with the operator ai.spkv::SelfPrunedAttention. Defaults to 'both', which share their weights. */
  form?: OnnxForm | 'both';
  /** Told the share of the weights that is written, 0 to 1. */
  onProgress?: (share: number) => void;
  /** Told of what is worth knowing: no predictors, tensors that nothing reads. */
  onWarning?: (message: string) => void;
  signal?: AbortSignal;
}

const OPTION_NAMES = ['dtype', 'form', 'onProgress', 'onWarning', 'signal'] as const;

/**
 * Writes the checkpoint in `dir` as ONNX, to the directory `out`: the graphs, their weights in one file beside them,
 * spkv-onnx.json, and the checkpoint's config and tokenizer. `out` appears when it is complete; an earlier export
 * there is replaced, anything else is refused. Weights are converted piece by piece, never held as a whole.
 * Errors: INVALID_ARGUMENT, FILE (also a disk that is full), UNSUPPORTED (a type of weights, a value that f16 cannot
 * hold, protobufjs missing), NON_FINITE, the reason of `signal`.
 */
export async function exportOnnx(dir: string, out: string, opts?: ExportOptions): Promise<OnnxManifest> {
  const given = options(opts, 'export options', OPTION_NAMES);
  const dtype = oneOf(given.dtype ?? 'f32', 'dtype', ONNX_DTYPES);
  const form = oneOf(given.form ?? 'both', 'form', [...ONNX_FORMS, 'both'] as const);
  const onProgress = callback(given.onProgress, 'onProgress');
  const onWarning = callback(given.onWarning, 'onWarning');
  const signal = abortSignal(given.signal, 'signal');
  string(out, 'out');
  signal?.throwIfAborted();
  const codec = await loadCodec();
  const checkpoint = await openCheckpoint(dir);
  await checkOutput(out);

  const plan = checkedWeightPlan(checkpoint);
  const file = new WeightsFile(WEIGHTS);
  const network = new Network(checkpoint.config, plan, new Weights(checkpoint, file, dtype));
  const graphs = writeForms(network, form, (name) => new GraphBuilder(name));
  if (plan.dense) onWarning?.(`${dir}: no utility predictors; the exported model runs dense`);
  const unread = checkpoint.unread();
  if (unread.length > 0) onWarning?.(`${dir}: ${unread.length} tensors are not part of the exported model: ${unread.slice(0, 5).join(', ')}`);
  const manifest: OnnxManifest = { version: 1, dtype, weights: WEIGHTS, ...graphs.names, ...describe(checkpoint.config) };
  await writeFolder(out, { manifest, graphs: graphs.models, weights: file, from: dir }, codec, onProgress, signal);
  return manifest;
}

function describe({ layers, heads, kvHeads, headDim, hiddenSize, vocabSize, maxPositions, bosTokenId, eosTokenIds, spkv }: ModelConfig): Pick<OnnxManifest, 'model' | 'spkv'> {
  return {
    model: {
      layers, heads, kvHeads, headDim, hiddenSize, vocabSize, maxPositions, ...(bosTokenId !== undefined && { bosTokenId }), eosTokenIds: [...eosTokenIds],
    },
    ...(spkv && { spkv: { window: spkv.window, threshold: spkv.threshold } }),
  };
}
