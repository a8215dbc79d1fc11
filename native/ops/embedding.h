// Embedding: out[t, :] = table[ids[t], :].
//
// The same look-up gathers rows of activations (the last token of each sequence, say).
#pragma once

#include "core/stream.h"
#include "core/view.h"

namespace spkv {

struct EmbeddingParams {
  View out;    // [T, C] f32, or bf16 on a GPU
  View ids;    // [T]    i32, each in [0, V), else kOutOfRange and `out` is unspecified
  View table;  // [V, C] f32 or bf16
};

}  // namespace spkv
