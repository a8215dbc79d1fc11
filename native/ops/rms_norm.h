// Root mean square normalisation over the last dimension (Zhang and Sennrich, arXiv 1910.07467):
//
//   out[r, :] = x[r, :] / sqrt(mean(x[r, :]^2) + epsilon) * weight
//
// With x [T, H, D] and weight [D] it is the per-head normalisation of queries and keys (Qwen3).
// `out` may be `x`. Sums are taken in f32.
//
// The backward, with r = 1 / sqrt(mean(x^2) + epsilon) and g = dy * weight, per row of C elements:
//
//   dx           (+)= r * (g - x * r^2 * mean(g * x))
//   d_weight[c]   +=  sum over rows of dy[c] * x[c] * r
#pragma once

#include "core/stream.h"
#include "core/view.h"

namespace spkv {

struct RmsNormParams {
  View out;     // [T, C] or [T, H, D] f32, or bf16 on a GPU
  View x;       // the shape of out, f32, or bf16 on a GPU
  View weight;  // [C] or [D] f32 or bf16
  float epsilon = 0;
};

// `dx` may be `dy`.
struct RmsNormBackwardParams {
  View dx;        // [T, C] or [T, H, D] f32, or bf16 on a GPU
  View d_weight;  // [C] or [D] f32, added to
  View dy;        // like dx, f32, or bf16 on a GPU
  View x;         // like dx, f32, or bf16 on a GPU
  View weight;    // [C] or [D] f32 or bf16
  float epsilon = 0;
  bool accumulate = false;  // add to dx instead of overwriting it
  View copy;                // like dx, bf16: dx once more, rounded; or absent
};

}  // namespace spkv
