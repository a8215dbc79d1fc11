import { show } from '../json.js';
import type { Fields } from './fields.js';

/** How the frequencies of rotary position embedding are changed to reach beyond the length trained on. */
export type RopeScaling =
  | { readonly type: 'default' }
  /** Every position is divided by `factor`. */
  | { readonly type: 'linear'; readonly factor: number }
  /** Llama 3.1: low frequencies are divided by `factor`, high ones kept, those between blended. */
  | {
      readonly type: 'llama3';
      readonly factor: number;
      readonly lowFreqFactor: number;
      readonly highFreqFactor: number;
      readonly originalMaxPositionEmbeddings: number;
    };

export interface RopeConfig {
  /** Base of the frequencies: theta ** (-2 i / headDim). */
  readonly ropeTheta: number;
  readonly ropeScaling: RopeScaling;
}

const DEFAULT_THETA = 10_000; // what transformers takes where a config names none, as those of Llama 2 do
const MAX_POSITIONS = 2 ** 31 - 1;

/**
 * Reads rope_theta and rope_scaling, or the object rope_parameters that transformers 5 writes instead of both.
 * Errors: 'FILE' (missing or malformed), 'UNSUPPORTED' (another kind of scaling, a rotation of part of the head).
 */
export function parseRope(config: Fields): RopeConfig {
  const name = config.has('rope_parameters') ? 'rope_parameters' : 'rope_scaling';
  const rope = config.child(name);
  const theta = rope?.has('rope_theta') ? rope : config;
  const ropeTheta = theta.number('rope_theta', { above: 0 }, DEFAULT_THETA);
  for (const fields of rope ? [config, rope] : [config]) {
    if (fields.has('partial_rotary_factor') && fields.number('partial_rotary_factor', { min: 0 }) !== 1) {
      throw fields.unsupported('partial_rotary_factor', '1 (the whole head is rotated)');
    }
  }
  return { ropeTheta, ropeScaling: rope ? parseScaling(rope, config, name) : { type: 'default' } };
}

function parseScaling(rope: Fields, config: Fields, name: string): RopeScaling {
  // Before transformers 4.43 the field was called "type".
  const key = rope.has('rope_type') || !rope.has('type') ? 'rope_type' : 'type';
  if (!rope.has(key)) {
    // rope_parameters may hold rope_theta alone; rope_scaling without a type says nothing that could be honoured.
    if (name === 'rope_parameters' && rope.has('rope_theta')) return { type: 'default' };
    throw config.wrong(name, 'an object with "rope_type"');
  }
  const type = rope.string(key);
  if (type === 'default') return { type };
  if (type === 'linear') return { type, factor: rope.number('factor', { above: 0 }) };
  if (type === 'llama3') {
    const lowFreqFactor = rope.number('low_freq_factor', { above: 0 });
    const highFreqFactor = rope.number('high_freq_factor', { above: 0 });
    if (highFreqFactor <= lowFreqFactor) throw rope.wrong('high_freq_factor', `a number above "low_freq_factor" (${show(lowFreqFactor)})`);
    return {
      type,
      factor: rope.number('factor', { min: 1 }),
      lowFreqFactor,
      highFreqFactor,
      originalMaxPositionEmbeddings: rope.integer('original_max_position_embeddings', 1, MAX_POSITIONS),
    };
  }
  throw rope.unsupported(key, '"default", "linear" or "llama3"');
}

