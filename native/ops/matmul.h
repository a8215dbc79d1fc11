// Matrix product with weights stored output-major, as checkpoints have them:
//
//   out[t, n] = base[t, n] + sum_k x[t, k] * weight[n, k] + bias[n]
//
// `base` is the residual stream, say, and may be `out` itself.
//
// Products and sums in f32. Every out[t, n] is summed over k in ascending order whatever T is, so a token's
// result does not depend on what else is in the batch. `out` must not overlap the inputs.
//
// The backward of the product, with dy [T, N] the gradient of `out`:
//
//   matmul_input_gradient:    dx[t, k]      (+)= sum_n dy[t, n] * weight[n, k]
//   matmul_weight_gradient:   d_weight[n, k] += sum_t dy[t, n] * x[t, k]
//   column_sums:              out[n]         += sum_t x[t, n]                     (of dy: the bias gradient)
//
// On the CPU a weight's gradient is one chain of sums over t, which goes on where the last call left it:
// tokens in several calls give the same bits as all at once.
#pragma once

#include "core/stream.h"
#include "core/view.h"

namespace spkv {

struct MatmulParams {
  View out;     // [T, N] f32, or bf16 on a GPU
  View x;       // [T, K] f32, or bf16 on a GPU
  View weight;  // [N, K] f32 or bf16, strided or packed (pack_weight)
  View bias;    // [N] f32 or bf16, or absent
  View base;    // [T, N] of the dtype of out, or absent
};

struct MatmulInputGradientParams {
  View dx;                  // [T, K] f32, or bf16 on a GPU
  View dy;                  // [T, N] f32, or bf16 on a GPU
  View weight;              // [N, K] f32 or bf16, strided
  bool accumulate = false;  // add to dx instead of overwriting it
};

struct MatmulWeightGradientParams {
  View d_weight;  // [N, K] f32, added to
  View dy;        // [T, N] f32, or bf16 on a GPU
  View x;         // [T, K] f32, or bf16 on a GPU
};

struct ColumnSumsParams {
  View out;  // [N] f32, added to
  View x;    // [T, N] f32, or bf16 on a GPU
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
