// Log-probabilities of given tokens: out[t] = logits[t, targets[t]] - log sum_v exp(logits[t, v]), in nats.
//
// A negative target is skipped and gives 0.
#pragma once

#include "core/stream.h"
#include "core/view.h"

namespace spkv {

struct LogProbabilitiesParams {
  View out;      // [T] f32
  View logits;   // [T, V] f32
  View targets;  // [T] i32
};

}  // namespace spkv
