// Root mean square normalisation over the last dimension (Zhang and Sennrich, arXiv 1910.07467):
//
//   out[r, :] = x[r, :] / sqrt(mean(x[r, :]^2) + epsilon) * weight
//
// With x [T, H, D] and weight [D] it is the per-head normalisation of queries and keys (Qwen3).
// `out` may be `x`. Sums are taken in f32.
#pragma once

#include "core/stream.h"
#include "core/view.h"

namespace spkv {

struct RmsNormParams {
  View out;     // [T, C] or [T, H, D] f32, or bf16 on a GPU
  View x;       // the shape of out, f32
  View weight;  // [C] or [D] f32 or bf16
  float epsilon = 0;
};

}  // namespace spkv
