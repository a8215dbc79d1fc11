import type { CacheDType, Checkpoint, ModelConfig } from '../index.js';
import { pairBytes } from '../report.js';

/** Tensors of one kind, all layers together. */
export interface TensorGroup {
  kind: string;
  tensors: number;
  parameters: number;
  bytes: number;
}

export interface Memory {
  cacheDtype: CacheDType;
  /** One key and one value of one layer and KV head. */
  pairBytes: number;
  /** What every token costs a cache that keeps everything. */
  denseBytesPerToken: number;
  /** What the window holds once it is full, whatever the threshold. */
  windowBytes: number;
}

const KINDS: readonly (readonly [kind: string, names: RegExp])[] = [
  ['utility predictors', /utility_predictor/],
  ['attention', /self_attn/],
  ['feed-forward', /mlp/],
  ['norms', /norm/],
  ['embedding and output', /embed_tokens|lm_head/],
  ['other', /(?:)/],
];

export function tensorGroups({ tensors }: Checkpoint): TensorGroup[] {
  const groups = KINDS.map(([kind]) => ({ kind, tensors: 0, parameters: 0, bytes: 0 }));
  for (const { name, shape, bytes } of tensors.values()) {
    const group = groups[KINDS.findIndex(([, names]) => names.test(name))]!;
    group.tensors++;
    group.parameters += shape.reduce((product, size) => product * size, 1);
    group.bytes += bytes;
  }
  return groups.filter(({ tensors: count }) => count > 0);
}

/** What a cache of `cacheDtype` takes; the model's own default is the element type of its weights. */
export function memory({ config, tensors }: Checkpoint, wanted: 'auto' | CacheDType = 'auto'): Memory {
  const { layers, kvHeads, headDim, spkv } = config;
  const weights = tensors.get('model.embed_tokens.weight')?.dtype;
  const cacheDtype = wanted === 'auto' ? (weights === 'BF16' ? 'bf16' : 'f32') : wanted;
  const pair = pairBytes({ headDim, dtype: cacheDtype });
  const perToken = layers * kvHeads * pair;
  return { cacheDtype, pairBytes: pair, denseBytesPerToken: perToken, windowBytes: (spkv?.window ?? 0) * perToken };
}

/** Bytes of `tokens` tokens of which `density` of those beyond the window are kept. */
export function prunedBytes({ denseBytesPerToken }: Memory, window: number, tokens: number, density: number): number {
  const inWindow = Math.min(tokens, window);
  return (inWindow + (tokens - inWindow) * density) * denseBytesPerToken;
}

/** A config in words, for the table of `spkv inspect`. */
export function describeConfig(config: ModelConfig): [name: string, value: string][] {
  const { layers, heads, kvHeads, headDim, hiddenSize, intermediateSize, vocabSize, maxPositions, ropeTheta, ropeScaling, spkv } = config;
  const extras = [
    config.attentionBias.qkv ? 'attention bias' : '',
    config.qkNorm ? 'q and k norm' : '',
    config.mlpBias ? 'MLP bias' : '',
    config.tieWordEmbeddings ? 'tied embeddings' : '',
  ].filter(Boolean);
  return [
    ['family', [config.family, ...extras].join(', ')],
    ['layers', `${layers}, ${hiddenSize} wide, feed-forward ${intermediateSize}`],
    ['attention', `${heads} query heads, ${kvHeads} key/value heads of ${headDim}`],
    ['vocabulary', vocabSize.toLocaleString('en-US')],
    ['positions', `${maxPositions.toLocaleString('en-US')}, RoPE θ ${ropeTheta.toLocaleString('en-US')}${ropeScaling.type === 'default' ? '' : `, ${ropeScaling.type} scaling`}`],
    ['pruning', spkv ? `window ${spkv.window}, default τ ${spkv.threshold}, predictors ${spkv.predictorHiddenSize} wide` : 'none: the model runs dense'],
  ];
}
