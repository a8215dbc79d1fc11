// The update of weights from their gradients.
//
// AdamW (Loshchilov and Hutter, arXiv 1711.05101), with g = factor * gradient:
//
//   parameter -= learning_rate * weight_decay * parameter
//   momentum   = beta1 * momentum + (1 - beta1) * g
//   variance   = beta2 * variance + (1 - beta2) * g^2
//   parameter -= learning_rate * (momentum / (1 - beta1^step)) /
//                (sqrt(variance / (1 - beta2^step)) + epsilon)
//   copy       = parameter, rounded to bf16
//
// Rows may be strided: the weights of one kind that all layers have are one matrix with a row for each layer.
//
// `factor` is a scalar in device memory, so that clipping needs no answer from the device in between. Where
// it is not finite, nothing is changed: a gradient that overflowed never reaches the weights.
//
// clip_factor makes it of the sums of squares of all gradients, which squared_norm adds up:
//
//   norm   = scale * sqrt(sum_n squared_norms[n])
//   factor = scale * min(1, limit / norm)       NaN where norm is not finite
//
// `scale` is 1 / tokens where gradients are sums over tokens.
#pragma once

#include "core/stream.h"
#include "core/view.h"

namespace spkv {

struct AdamWParams {
  View parameter;  // [R, N] f32
  View momentum;   // [R, N] f32
  View variance;   // [R, N] f32
  View copy;       // [R, N] bf16, or absent
  View gradient;   // [R, N] f32
  View factor;     // [1] f32
  float learning_rate = 0, beta1 = 0, beta2 = 0, epsilon = 0, weight_decay = 0;
  int64_t step = 1;  // from 1
};

// out[r] += sum_n x[r, n]^2, in an order that depends on N alone, whatever else is in the call.
struct SquaredNormParams {
  View out;  // [R] f32
  View x;    // [R, N] f32
};

struct ClipFactorParams {
  View factor;         // [1] f32
  View norm;           // [1] f32
  View squared_norms;  // [N] f32
  float scale = 1;
  float limit = 0;  // of the norm; above 0
};

}  // namespace spkv
