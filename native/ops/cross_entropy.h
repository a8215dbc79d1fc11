// Cross-entropy of next-token prediction, forward and backward in one: the gradient takes the place of the
// logits, so that a second tensor of that size never exists. With p = softmax(logits[t, :]):
//
//   losses[t]    = log sum_v exp(logits[t, v]) - logits[t, target]
//   logits[t, v] = factor * (p[v] - [v = target])
//
// A negative target is ignored: loss 0, gradient 0. The largest logit is subtracted before any exponential.
// NaN or +infinity among the logits makes the loss NaN.
#pragma once

#include "core/stream.h"
#include "core/view.h"

namespace spkv {

struct CrossEntropyParams {
  View losses;   // [T] f32
  View logits;   // [T, V] f32, or bf16 on a GPU; overwritten by their gradient
  View targets;  // [T] i32, each below V, else kOutOfRange and both outputs are unspecified
  float factor = 1;
};

}  // namespace spkv
