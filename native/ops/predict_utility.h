// Utility prediction (Szilvasy et al., arXiv 2605.14037): how useful a key/value pair will be later.
//
//   z[t, g] = sum_p weight[g, p] * silu(hidden[t, p]) + bias[g]
//   out[t, g] = sigmoid(z[t, g]), or logsigmoid(z[t, g]) with `log`
//
// `hidden` is the predictor's first layer with its bias, W1 x + b1. It reads the same vector as q, k and v,
// so its rows ride in their product.
#pragma once

#include "core/stream.h"
#include "core/view.h"

namespace spkv {

struct PredictUtilityParams {
  View out;     // [T, G] f32
  View hidden;  // [T, P] f32
  View weight;  // [G, P] f32 or bf16
  View bias;    // [G] f32 or bf16
  bool log = false;
};

}  // namespace spkv
