// Embedding: out[t, :] = table[ids[t], :].
//
// The same look-up gathers rows of activations (the last token of each sequence, say).
//
// Its backward adds to the rows that were looked up: d_table[ids[t], :] += dy[t, :]. On the CPU each row is
// summed in ascending order of t.
#pragma once

#include "core/stream.h"
#include "core/view.h"

namespace spkv {

struct EmbeddingParams {
  View out;    // [T, C] f32, or bf16 on a GPU
  View ids;    // [T]    i32, each in [0, V), else kOutOfRange and `out` is unspecified
  View table;  // [V, C] f32 or bf16
};

struct EmbeddingBackwardParams {
  View d_table;  // [V, C] f32, added to
  View ids;      // [T]    i32, each in [0, V), else kOutOfRange and `d_table` is as it was
  View dy;       // [T, C] f32
};

}  // namespace spkv
