// Attention over whole sequences with a soft gate per key: the form that training uses.
//
// Documents are packed one after another; offsets holds their boundaries. For t, s of one document, s <= t:
//
//   score(t, s) = scale * q[t, h, :] . k[s, g, :] + (t - s < window ? 0 : gates[s, g])
//   out[t, h, :] = sum_s softmax_s(score(t, s)) v[s, g, :]
//
// gates are log utilities (at most 0; -infinity removes a pair). Without gates it is plain causal attention.
// One pass with a running softmax; no score matrix is ever stored.
#pragma once

#include "core/stream.h"
#include "core/view.h"

namespace spkv {

struct GatedAttentionParams {
  View out;      // [T, H, D] f32, or bf16 on a GPU
  View q;        // [T, H, D] f32
  View keys;     // [T, G, D] f32
  View values;   // [T, G, D] f32
  View gates;    // [T, G] f32, or absent
  View offsets;  // [B + 1] i32
  int64_t window = 1;
  float scale = 1;
};

}  // namespace spkv
