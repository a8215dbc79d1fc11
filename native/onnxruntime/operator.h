// The operator ai.spkv::SelfPrunedAttention, version 1: attention over a cache that the graph knows nothing
// of.
//
//   inputs   query [T, H D], key [T, G D], value [T, G D] f32, after norms and RoPE;
//            utility [T, G] f32 (left out: everything is kept); position_ids [T] i64;
//            sequence_slots [B] i32; sequence_offsets [B + 1] i32
//   output   context [T, H D] f32
//   attributes: layer, layers, num_heads, kv_num_heads, head_dim, window; scale
//
// A session has an operator of its own, and for each run tells it the step: which cache, and where the new
// pairs of the layer are to go, to be inserted when all layers have run.
#pragma once

#include "core/cache.h"
#include "core/stream.h"
#include "core/view.h"
#include "onnxruntime/api.h"
#include "onnxruntime/library.h"
#include "ops/operations.h"

namespace spkv {
namespace onnxruntime {

// What the operator needs while the graph runs.
struct AttentionStep {
  Cache* cache = nullptr;
  View keys;       // [L, T, G, D] f32, filled layer by layer
  View values;     // [L, T, G, D]
  View utilities;  // [L, T, G], or absent in a dense model
  const Operations* operations = nullptr;
  Execution* execution = nullptr;
  Status failure;  // of ours, in its full length
};

struct AttentionOperator : CustomOp {
  explicit AttentionOperator(const Library* library);

  const Library* library;
  AttentionStep* step = nullptr;  // of the run under way
};

}  // namespace onnxruntime
}  // namespace spkv
