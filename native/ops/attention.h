// Varlen attention over the self-pruned cache and the new tokens of a step.
//
// The step brings offsets[b+1] - offsets[b] new tokens for the sequence in slot slots[b]; they follow its T
// cached tokens, so new token i of that sequence has position T + i. For query position t and key position
// s <= t, in KV head g = h / (H/G):
//
//   visible(t, s) = t - s < window  or  utility[s, g] >= threshold of the sequence
//   out[t, h, :]  = sum_s softmax_s(scale * q[t, h, :] . k[s, g, :] | visible) v[s, g, :]
//
// Keys carry their rotary embedding. The cache is only read: `insert` adds the new pairs after the last
// layer. So a prompt gives the same result however it is cut into steps, and a decode step is a step of one
// token. Every query sees at least itself. One pass with a running softmax; no score matrix is ever stored.
// A sequence's result does not depend on what else is in the batch. Without utilities everything is kept.
//
// An fp8 cache holds keys and values coarsely enough to matter (core/fp8.h), so the pairs of the step take
// part as the cache will hold them: rounded before any query sees them, as those of steps before were. With
// bf16 they take part as they come.
#pragma once

#include "core/cache.h"
#include "core/stream.h"
#include "core/view.h"

namespace spkv {

struct AttentionParams {
  View out;        // [T, H, D] f32, or bf16 on a GPU
  View q;          // [T, H, D] f32
  View keys;       // [T, G, D] f32
  View values;     // [T, G, D] f32
  View utilities;  // [T, G] f32, or absent
  Cache* cache = nullptr;
  int64_t layer = 0;
  View slots;    // [B] i32, all different
  View offsets;  // [B + 1] i32, offsets[0] = 0, ascending, offsets[B] = T
  float scale = 1;
};

}  // namespace spkv
