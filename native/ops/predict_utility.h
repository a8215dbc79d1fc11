// Utility prediction (Szilvasy et al., arXiv 2605.14037): how useful a key/value pair will be later.
//
//   z[t, g] = sum_p weight[g, p] * silu(hidden[t, p]) + bias[g]
//   u[t, g] = sigmoid(z[t, g])
//
//   form          out[t, g]
//   kUtility      u
//   kLogUtility   log u, by logsigmoid(z)
//   kAnnealed     log((1 - alpha) * u + alpha * [u >= threshold]): from log u at alpha 0 to what inference
//   does
//                 at alpha 1, where it is 0 for a pair that is kept and -infinity for one that is not
//
// `hidden` is the predictor's first layer with its bias, W1 x + b1. It reads the same vector as q, k and v,
// so its rows ride in their product.
//
// The backward is that of kLogUtility, with d log u / dz = sigmoid(-z), and s = sigmoid(hidden):
//
//   dz[t, g]        = d_log_utility[t, g] * sigmoid(-z[t, g])
//   d_hidden[t, p]  = (sum_g dz[t, g] * weight[g, p]) * s * (1 + hidden[t, p] * (1 - s))
//   d_weight[g, p] += sum_t dz[t, g] * silu(hidden[t, p])
//   d_bias[g]      += sum_t dz[t, g]
#pragma once

#include "core/stream.h"
#include "core/view.h"

namespace spkv {

enum class UtilityForm : int { kUtility = 0, kLogUtility = 1, kAnnealed = 2 };

struct PredictUtilityParams {
  View out;     // [T, G] f32
  View hidden;  // [T, P] f32, or bf16 on a GPU
  View weight;  // [G, P] f32 or bf16
  View bias;    // [G] f32 or bf16
  UtilityForm form = UtilityForm::kUtility;
  float alpha = 0, threshold = 0;  // of kAnnealed, both in [0, 1]
};

struct PredictUtilityBackwardParams {
  View d_hidden;       // [T, P] f32, or bf16 on a GPU
  View d_weight;       // [G, P] f32, added to
  View d_bias;         // [G] f32, added to
  View d_log_utility;  // [T, G] f32
  View hidden;         // [T, P] like d_hidden
  View weight;         // [G, P] f32 or bf16
  View bias;           // [G] f32 or bf16
};

}  // namespace spkv
