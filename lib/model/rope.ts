import type { ModelConfig } from '../checkpoint/config.js';

/**
 * Inverse frequencies of the rotary embedding, [headDim / 2]: theta^(-2i/headDim), then scaled.
 * linear: all divided by the factor (positions are interpolated; Chen et al., arXiv 2306.15595).
 * llama3: those whose wavelength exceeds original/lowFreqFactor are divided by the factor, those below
 * original/highFreqFactor stay, and the ones between are blended linearly in original/wavelength (Llama 3.1).
 */
export function inverseFrequencies({ headDim, ropeTheta, ropeScaling }: ModelConfig): Float32Array {
  return Float32Array.from({ length: headDim / 2 }, (_, i) => {
    const frequency = ropeTheta ** ((-2 * i) / headDim);
    switch (ropeScaling.type) {
      case 'default':
        return frequency;
      case 'linear':
        return frequency / ropeScaling.factor;
      case 'llama3': {
        const { factor, lowFreqFactor, highFreqFactor, originalMaxPositionEmbeddings } = ropeScaling;
        const turns = (originalMaxPositionEmbeddings * frequency) / (2 * Math.PI);
        if (turns < lowFreqFactor) return frequency / factor;
        if (turns > highFreqFactor) return frequency;
        const share = (turns - lowFreqFactor) / (highFreqFactor - lowFreqFactor);
        return (1 - share) * (frequency / factor) + share * frequency;
      }
    }
  });
}
