// Matrix product with weights stored output-major, as checkpoints have them:
//
//   out[t, n] = sum_k x[t, k] * weight[n, k] + bias[n]
//
// With `accumulate` the result is added to what is in `out` (the residual stream).
//
// Products and sums in f32. Every out[t, n] is summed over k in ascending order whatever T is, so a token's
// result does not depend on what else is in the batch. `out` must not overlap the inputs.
#pragma once

#include "core/stream.h"
#include "core/view.h"

namespace spkv {

struct MatmulParams {
  View out;     // [T, N] f32
  View x;       // [T, K] f32, or bf16 on a GPU
  View weight;  // [N, K] f32 or bf16, strided or packed (pack_weight)
  View bias;    // [N] f32 or bf16, or absent
  bool accumulate = false;
};

// Brings weights into the packed layout of the device, stacking up to four of them along N: the rows of q, k,
// v and of the predictor's first layer then are one product.
struct PackWeightParams {
  static constexpr int kMaxSources = 4;
  View out;  // [sum of N, K], packed
  int count = 0;
  View sources[kMaxSources];  // [N_i, K], all of the dtype of out
};

}  // namespace spkv
