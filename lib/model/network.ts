import type { ModelConfig, SpkvConfig } from '../checkpoint/config.js';
import type { KvCache, Tensor } from '../ops.js';

/** What must be known of a network, whatever computes it. */
export type NetworkConfig = Pick<ModelConfig, 'layers' | 'heads' | 'kvHeads' | 'headDim' | 'hiddenSize' | 'vocabSize' | 'maxPositions' | 'bosTokenId' | 'eosTokenIds'> & {
  /** Undefined for a dense model. */
  readonly spkv: Pick<SpkvConfig, 'window' | 'threshold'> | undefined;
};

/**
 * What Model, Decoder and Engine need of a network, whoever computes it: the operations of this library
 * (llama-network.ts), or a runtime for graphs that leaves attention to this library.
 */
export interface Network {
  readonly config: NetworkConfig;
  /** True without predictors: every pair is kept. */
  readonly dense: boolean;
  /** How a cache stores keys and values unless told otherwise. */
  readonly cacheDtype: 'f32' | 'bf16';
  /** Memory for steps of up to `tokens` tokens. */
  createMemory(tokens: number): StepMemory;
  /**
   * Enqueues logits [T, V] of a whole text without the cache, in the form that training uses: gates added to the
   * scores as log utilities ('soft'), or all open ('dense'). Networks without that form have no such function.
   */
  forwardGated?(logits: Tensor, ids: Int32Array, mode: 'soft' | 'dense'): void;
  dispose(): void;
}

/** Memory that steps take in turn. */
export interface StepMemory {
  readonly tokens: number;
  /** A step of `tokens` tokens, over this memory. */
  take(tokens: number): Step;
  dispose(): void;
}

/** A step of T new tokens through the cache: prefill chunks and decode steps alike. */
export interface Step {
  ids: Tensor; //               [T] i32, written by the caller
  positions: Tensor; //         [T] i32, of the new tokens once it has run
  utilities: Tensor | null; //  [L, T, G], likewise; null in a dense network
  /**
   * Enqueues the step: from ids to logits, and then the new pairs of all layers into the cache, unless a logit is not
   * finite. What it enqueues can be captured.
   */
  forward(cache: KvCache, batch: Batch): void;
}

/** Which sequences a step is for: sequence slots[b] has the tokens offsets[b] to offsets[b + 1]. */
export interface Batch {
  slots: Tensor; //    [B] i32
  offsets: Tensor; //  [B + 1] i32
  /** [N, V], where logits are wanted. */
  logits?: Tensor;
  /** [N] i32: the tokens whose logits they are. Without it the first N. */
  rows?: Tensor;
}
