// Attention over whole sequences with a soft gate per key: the form that training uses.
//
// Documents are packed one after another; offsets holds their boundaries. For t, s of one document, s <= t:
//
//   score(t, s) = scale * q[t, h, :] . k[s, g, :] + (t - s < window ? 0 : gates[s, g])
//   out[t, h, :] = sum_s softmax_s(score(t, s)) v[s, g, :]
//
// gates are log utilities (at most 0; -infinity removes a pair). Without gates it is plain causal attention.
// One pass with a running softmax; no score matrix is ever stored. Pairs that are removed cost nothing.
//
// The backward makes the weights anew from log_sum_exp[t, h] = log sum_s exp(score(t, s)). With dO the
// gradient of `out`:
//
//   p(t, s)       = exp(score(t, s) - log_sum_exp[t, h])
//   ds(t, s)      = p(t, s) * (dO[t, h, :] . v[s, g, :] - dO[t, h, :] . out[t, h, :])
//   dq[t, h, :]   = scale * sum_s ds(t, s) k[s, g, :]
//   dk[s, g, :]   = scale * sum_{h of g, t} ds(t, s) q[t, h, :]
//   dv[s, g, :]   = sum_{h of g, t} p(t, s) dO[t, h, :]
//   d_gates[s, g] = sum_{h of g, t - s >= window} ds(t, s);   0 where the gate is -infinity
//
// On the CPU its sums have one order, whatever the threads do: equal inputs give equal bits.
//
// On a GPU f32 tensors are multiplied in f32. Those in bf16 are multiplied by the matrix units where compute
// capability is 9.0, D is 64 or 128, rows are multiples of 16 bytes, and the device is not an exact one;
// weights and ds are rounded to bf16, sums are f32. There equal inputs give equal bits in everything but dq,
// which blocks add up as they come along; and what is not a finite number may spread to other documents of
// the call, and through pairs that are removed. Otherwise bf16 tensors are widened first.
#pragma once

#include "core/stream.h"
#include "core/view.h"

namespace spkv {

// Where activations may be bf16 (a GPU), `out`, q, keys, values and their gradients are all f32 or all bf16.
struct GatedAttentionParams {
  View out;          // [T, H, D] f32 or bf16
  View log_sum_exp;  // [T, H] f32, or absent
  View q;            // [T, H, D]
  View keys;         // [T, G, D]
  View values;       // [T, G, D]
  View gates;        // [T, G] f32, or absent
  View offsets;      // [B + 1] i32
  int64_t window = 1;
  float scale = 1;
};

// Outputs are overwritten and must not overlap the inputs.
struct GatedAttentionBackwardParams {
  View dq;           // [T, H, D] f32 or bf16
  View dk;           // [T, G, D]
  View dv;           // [T, G, D]
  View d_gates;      // [T, G] f32, or absent; only with gates
  View d_out;        // [T, H, D]
  View out;          // [T, H, D]
  View log_sum_exp;  // [T, H] f32
  View q;            // [T, H, D]
  View keys;         // [T, G, D]
  View values;       // [T, G, D]
  View gates;        // [T, G] f32, or absent
  View offsets;      // [B + 1] i32
  int64_t window = 1;
  float scale = 1;
};

}  // namespace spkv
