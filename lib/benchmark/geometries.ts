import type { ModelConfig } from '../checkpoint/config.js';

/** Architectures that benchmarks build with random weights. The predictor reads as in the bundled model: one hidden layer. */
type Sizes = Pick<ModelConfig, 'hiddenSize' | 'intermediateSize' | 'layers' | 'heads' | 'kvHeads' | 'headDim' | 'vocabSize' | 'qkNorm' | 'ropeTheta'>;

const SIZES = {
  'llama-110m': {
    hiddenSize: 768, intermediateSize: 2048, layers: 12, heads: 12, kvHeads: 4, headDim: 64, vocabSize: 32_000, qkNorm: false, ropeTheta: 10_000,
  },
  'llama-3-8b': {
    hiddenSize: 4096, intermediateSize: 14_336, layers: 32, heads: 32, kvHeads: 8, headDim: 128, vocabSize: 128_256, qkNorm: false, ropeTheta: 500_000,
  },
  'qwen3-0.6b': {
    hiddenSize: 1024, intermediateSize: 3072, layers: 28, heads: 16, kvHeads: 8, headDim: 128, vocabSize: 151_936, qkNorm: true, ropeTheta: 1_000_000,
  },
  'qwen3-4b': {
    hiddenSize: 2560, intermediateSize: 9728, layers: 36, heads: 32, kvHeads: 8, headDim: 128, vocabSize: 151_936, qkNorm: true, ropeTheta: 1_000_000,
  },
} satisfies Record<string, Sizes>;

export type GeometryName = keyof typeof SIZES;
export const GEOMETRIES = Object.keys(SIZES) as GeometryName[];

/** Tokens that every query sees, and the utility from which a pair is kept. */
export const WINDOW = 128;
export const THRESHOLD = 0.5;

export function geometry(name: GeometryName): ModelConfig {
  return {
    ...SIZES[name],
    family: name.startsWith('qwen3') ? 'qwen3' : 'llama',
    rmsNormEps: 1e-5,
    ropeScaling: { type: 'default' },
    maxPositions: 2 ** 31 - 1,
    tieWordEmbeddings: false,
    attentionBias: { qkv: false, out: false },
    mlpBias: false,
    bosTokenId: undefined,
    eosTokenIds: [],
    dtype: 'BF16',
    spkv: { window: WINDOW, threshold: THRESHOLD, predictorHiddenSize: 256, predictorActivation: 'silu' },
  };
}

/** Elements of all weights that a step streams once: everything but the embedding table. */
export function streamedWeights(config: ModelConfig): number {
  const { hiddenSize, intermediateSize, layers, heads, kvHeads, headDim, vocabSize, spkv } = config;
  const attention = (2 * heads + 2 * kvHeads) * headDim * hiddenSize;
  const predictor = spkv!.predictorHiddenSize * (hiddenSize + kvHeads);
  return layers * (attention + predictor + 3 * hiddenSize * intermediateSize) + vocabSize * hiddenSize;
}
