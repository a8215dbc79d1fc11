// What lies between the product that gives queries, keys, values and the predictor's first layer, and
// attention: normalisation and rotation of the heads, and the second layer of the predictor. A row of qkv is
//
//   [ H queries of D | G keys of D | G values of D | P of the predictor's first layer, hidden ]
//
//   q[t, h, :]      = rope(rms_norm(query h, q_norm), angles[t])    see rms_norm.h and rope.h; an absent
//   keys[t, g, :]   = rope(rms_norm(key g, k_norm), angles[t])      norm is left out
//   values[t, g, :] = value g
//   utilities[t, g] = predict_utility(hidden)[g]                   see predict_utility.h
//
// The same as those operations one after another, to rounding. Outputs must not overlap qkv.
#pragma once

#include "core/stream.h"
#include "core/view.h"

namespace spkv {

struct PreparePairsParams {
  View q;          // [T, H, D] f32
  View keys;       // [T, G, D] f32
  View values;     // [T, G, D] f32
  View utilities;  // [T, G] f32; absent without a predictor
  View qkv;        // [T, H D + 2 G D + P] f32; P = 0 without a predictor
  View angles;     // [T, D] f32, from rotary_angles
  View q_norm;     // [D] f32 or bf16, or absent
  View k_norm;     // [D] f32 or bf16, or absent
  float epsilon = 0;
  View weight;  // [G, P] f32 or bf16; absent without a predictor
  View bias;    // [G] f32 or bf16; absent without a predictor
  bool log = false;
};

}  // namespace spkv
