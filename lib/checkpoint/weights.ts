import { mismatch } from '../files.js';
import type { ModelConfig } from './config.js';

/** A tensor that the model reads: its name in the checkpoint and the shape that it must have. */
export interface TensorRef {
  readonly name: string;
  readonly shape: readonly number[];
}

/** The tensors of one layer. Matrices are [outputs, inputs]; C hidden size, F intermediate size, H, G, D as elsewhere. */
export interface LayerPlan {
  /** [C] */
  readonly inputNorm: TensorRef;
  /** [H·D, C] */
  readonly qProj: TensorRef;
  /** [G·D, C] */
  readonly kProj: TensorRef;
  /** [G·D, C] */
  readonly vProj: TensorRef;
  /** [C, H·D] */
  readonly oProj: TensorRef;
  /** [H·D], with kBias [G·D] and vBias [G·D] */
  readonly qBias?: TensorRef;
  readonly kBias?: TensorRef;
  readonly vBias?: TensorRef;
  /** [C] */
  readonly oBias?: TensorRef;
  /** [D], shared by all heads */
  readonly qNorm?: TensorRef;
  readonly kNorm?: TensorRef;
  /** [C] */
  readonly postNorm: TensorRef;
  /** [F, C] */
  readonly gateProj: TensorRef;
  /** [F, C] */
  readonly upProj: TensorRef;
  /** [C, F] */
  readonly downProj: TensorRef;
  /** [F], with upBias [F] and downBias [C] */
  readonly gateBias?: TensorRef;
  readonly upBias?: TensorRef;
  readonly downBias?: TensorRef;
  /** Absent in a dense model. */
  readonly predictor?: PredictorPlan;
}

/** The utility predictor of one layer; P its hidden size. */
export interface PredictorPlan {
  /** [P, C] */
  readonly fc1Weight: TensorRef;
  /** [P] */
  readonly fc1Bias: TensorRef;
  /** [G, P] */
  readonly fc2Weight: TensorRef;
  /** [G] */
  readonly fc2Bias: TensorRef;
}

/** Every tensor that a model reads from its checkpoint. */
export interface WeightPlan {
  /** No predictors: all gates are open. */
  readonly dense: boolean;
  /** [vocab, C] */
  readonly embedTokens: TensorRef;
  readonly layers: readonly LayerPlan[];
  /** [C] */
  readonly finalNorm: TensorRef;
  /** [vocab, C]; absent where it is tied to the embedding. */
  readonly lmHead?: TensorRef;
}

/** The weights that a model of this config reads, with predictors if it has an "spkv" part. */
export function weightPlan(config: ModelConfig): WeightPlan {
  const { vocabSize, hiddenSize, layers, tieWordEmbeddings } = config;
  return {
    dense: config.spkv === undefined,
    embedTokens: { name: 'model.embed_tokens.weight', shape: [vocabSize, hiddenSize] },
    layers: Array.from({ length: layers }, (_, layer) => layerPlan(config, layer)),
    finalNorm: { name: 'model.norm.weight', shape: [hiddenSize] },
    ...(tieWordEmbeddings ? {} : { lmHead: { name: 'lm_head.weight', shape: [vocabSize, hiddenSize] } }),
  };
}

/**
 * The same, after checking that config and checkpoint agree about predictors: all of them where the config has an
 * "spkv" part, none where it has not. Errors: 'FILE', naming the first tensor that is missing or too many.
 */
export function checkedWeightPlan(checkpoint: {
  readonly config: ModelConfig;
  readonly tensors: { has(name: string): boolean; keys(): Iterable<string> };
  readonly listing: string;
}): WeightPlan {
  const { config, tensors, listing } = checkpoint;
  const plan = weightPlan(config);
  if (plan.dense) {
    for (const name of tensors.keys()) {
      if (!name.includes('.utility_predictor.')) continue;
      throw mismatch(listing, `tensor "${name}"`, 'no utility predictor, since config.json has no "spkv" object', 'one');
    }
    return plan;
  }
  for (const { predictor } of plan.layers) {
    for (const ref of Object.values(predictor!) as TensorRef[]) {
      if (tensors.has(ref.name)) continue;
      throw mismatch(listing, `tensor "${ref.name}"`, 'a utility predictor, since config.json has an "spkv" object', 'no such tensor');
    }
  }
  return plan;
}

/** All tensors of a plan, in the order in which a model uses them. */
export function planTensors(plan: WeightPlan): TensorRef[] {
  const refs = [plan.embedTokens];
  for (const { predictor, ...layer } of plan.layers) {
    refs.push(...(Object.values(layer) as TensorRef[]));
    if (predictor) refs.push(...(Object.values(predictor) as TensorRef[]));
  }
  refs.push(plan.finalNorm);
  if (plan.lmHead) refs.push(plan.lmHead);
  return refs;
}

function layerPlan(config: ModelConfig, layer: number): LayerPlan {
  const { hiddenSize: c, intermediateSize: f, heads, kvHeads, headDim: d } = config;
  const prefix = `model.layers.${layer}.`;
  const weight = (name: string, ...shape: number[]): TensorRef => ({ name: `${prefix}${name}.weight`, shape });
  const bias = (name: string, ...shape: number[]): TensorRef => ({ name: `${prefix}${name}.bias`, shape });
  return {
    inputNorm: weight('input_layernorm', c),
    qProj: weight('self_attn.q_proj', heads * d, c),
    kProj: weight('self_attn.k_proj', kvHeads * d, c),
    vProj: weight('self_attn.v_proj', kvHeads * d, c),
    oProj: weight('self_attn.o_proj', c, heads * d),
    ...(config.attentionBias.qkv && {
      qBias: bias('self_attn.q_proj', heads * d),
      kBias: bias('self_attn.k_proj', kvHeads * d),
      vBias: bias('self_attn.v_proj', kvHeads * d),
    }),
    ...(config.attentionBias.out && { oBias: bias('self_attn.o_proj', c) }),
    ...(config.qkNorm && { qNorm: weight('self_attn.q_norm', d), kNorm: weight('self_attn.k_norm', d) }),
    postNorm: weight('post_attention_layernorm', c),
    gateProj: weight('mlp.gate_proj', f, c),
    upProj: weight('mlp.up_proj', f, c),
    downProj: weight('mlp.down_proj', c, f),
    ...(config.mlpBias && { gateBias: bias('mlp.gate_proj', f), upBias: bias('mlp.up_proj', f), downBias: bias('mlp.down_proj', c) }),
    ...(config.spkv && { predictor: predictorPlan(config, layer, config.spkv.predictorHiddenSize) }),
  };
}

function predictorPlan(config: ModelConfig, layer: number, p: number): PredictorPlan {
  const prefix = `model.layers.${layer}.self_attn.utility_predictor.`;
  return {
    fc1Weight: { name: `${prefix}fc1.weight`, shape: [p, config.hiddenSize] },
    fc1Bias: { name: `${prefix}fc1.bias`, shape: [p] },
    fc2Weight: { name: `${prefix}fc2.weight`, shape: [config.kvHeads, p] },
    fc2Bias: { name: `${prefix}fc2.bias`, shape: [config.kvHeads] },
  };
}
