// The table of operations: what a device can do. One line per operation; the same names stand in the
// TypeScript library, in the binding, and in the CPU and CUDA sources.
#pragma once

#include "core/status.h"
#include "core/stream.h"
#include "ops/attention.h"
#include "ops/count_kept.h"
#include "ops/cross_entropy.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/gated_attention.h"
#include "ops/insert.h"
#include "ops/log_probabilities.h"
#include "ops/matmul.h"
#include "ops/optimizer.h"
#include "ops/predict_utility.h"
#include "ops/prepare_pairs.h"
#include "ops/rms_norm.h"
#include "ops/rope.h"
#include "ops/sample.h"

#define SPKV_OPERATIONS(X)                                  \
  X(embedding, EmbeddingParams)                             \
  X(embedding_backward, EmbeddingBackwardParams)            \
  X(rms_norm, RmsNormParams)                                \
  X(rms_norm_backward, RmsNormBackwardParams)               \
  X(matmul, MatmulParams)                                   \
  X(matmul_input_gradient, MatmulInputGradientParams)       \
  X(matmul_weight_gradient, MatmulWeightGradientParams)     \
  X(column_sums, ColumnSumsParams)                          \
  X(pack_weight, PackWeightParams)                          \
  X(rotary_angles, RotaryAnglesParams)                      \
  X(rope, RopeParams)                                       \
  X(silu_mul, SiluMulParams)                                \
  X(silu_mul_backward, SiluMulBackwardParams)               \
  X(add, AddParams)                                         \
  X(copy, CopyParams)                                       \
  X(fill, FillParams)                                       \
  X(predict_utility, PredictUtilityParams)                  \
  X(predict_utility_backward, PredictUtilityBackwardParams) \
  X(count_kept, CountKeptParams)                            \
  X(prepare_pairs, PreparePairsParams)                      \
  X(attention, AttentionParams)                             \
  X(insert, InsertParams)                                   \
  X(positions, PositionsParams)                             \
  X(gated_attention, GatedAttentionParams)                  \
  X(gated_attention_backward, GatedAttentionBackwardParams) \
  X(sample, SampleParams)                                   \
  X(record_prompt, RecordPromptParams)                      \
  X(log_probabilities, LogProbabilitiesParams)              \
  X(cross_entropy, CrossEntropyParams)                      \
  X(adam_w, AdamWParams)                                    \
  X(squared_norm, SquaredNormParams)                        \
  X(clip_factor, ClipFactorParams)

namespace spkv {

struct Operations {
#define SPKV_ENTRY(name, Params) Status (*name)(const Params&, Execution&);
  SPKV_OPERATIONS(SPKV_ENTRY)
#undef SPKV_ENTRY
};

}  // namespace spkv
