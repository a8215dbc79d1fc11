// Rotary position embedding (Su et al., arXiv 2104.09864), in the half-split form of Hugging Face
// checkpoints:
//
//   angle[t, i]      = positions[t] * inverse_frequencies[i]                      for i < D/2
//   out[t, h, i]     = x[t, h, i] * cos(angle[t, i]) - x[t, h, i+D/2] * sin(angle[t, i])
//   out[t, h, i+D/2] = x[t, h, i+D/2] * cos(angle[t, i]) + x[t, h, i] * sin(angle[t, i])
//
// The inverse turns the other way, with -sin: it undoes the rotation, and is its backward.
//
// Scaled variants (linear, llama3) differ only in the inverse frequencies. The cosines and sines are the same
// for all layers and heads: rotary_angles makes them once per step, in double precision.
#pragma once

#include "core/stream.h"
#include "core/view.h"

namespace spkv {

struct RotaryAnglesParams {
  View out;                  // [T, D] f32: D/2 cosines, then D/2 sines
  View positions;            // [T] i32
  View inverse_frequencies;  // [D/2] f32
};

struct RopeParams {
  View out;     // [T, H, D] f32, or bf16 on a GPU; may be x
  View x;       // like out
  View angles;  // [T, D] f32, from rotary_angles
  bool inverse = false;
};

}  // namespace spkv
