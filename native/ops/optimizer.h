// The update of weights from their gradients.
//
// AdamW (Loshchilov and Hutter, arXiv 1711.05101), with g = factor * gradient:
//
//   parameter -= learning_rate * weight_decay * parameter
//   momentum   = beta1 * momentum + (1 - beta1) * g
//   variance   = beta2 * variance + (1 - beta2) * g^2
//   parameter -= learning_rate * (momentum / (1 - beta1^step)) / (sqrt(variance / (1 - beta2^step)) +
//   epsilon) copy       = parameter, rounded to bf16
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
  View parameter;  // [N] f32
  View momentum;   // [N] f32
  View variance;   // [N] f32
  View copy;       // [N] bf16, or absent
  View gradient;   // [N] f32
  View factor;     // [1] f32
  float learning_rate = 0, beta1 = 0, beta2 = 0, epsilon = 0, weight_decay = 0;
  int64_t step = 1;  // from 1
};

// On the CPU the sum has one order, whatever the threads do.
struct SquaredNormParams {
  View out;  // [1] f32, added to
  View x;    // [N] f32
};

struct ClipFactorParams {
  View factor;         // [1] f32
  View norm;           // [1] f32
  View squared_norms;  // [N] f32
  float scale = 1;
  float limit = 0;  // of the norm; above 0
};

}  // namespace spkv
