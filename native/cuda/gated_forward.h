// Gated attention on Hopper's matrix instructions: whole tiles, products in bf16, sums in f32.
#pragma once

#include "cuda/gated_tile.cuh"

namespace spkv {
namespace cuda {

struct GatedForward {
  TensorMap q, keys, values;             // tiles of gated_query_rows(D), kKeyTile and kKeyTile tokens
  TensorMap sorted_keys, sorted_values;  // in the order of the lists, for heads that drop keys
  KeyLists lists;                        // gates divided by the scale
  GatedGrid grid;
  GatedRows out;
  float* log_sum_exp = nullptr;  // or null
  int64_t log_sum_exp_stride = 0;
  int window = 1;  // no longer than the longest document
  float scale = 1;
};

// How many queries a block takes.
constexpr int gated_query_rows(int64_t dim) { return dim == 128 ? 128 : 192; }

// D is 64 or 128.
cudaError_t launch_gated_forward(const GatedForward& params, int64_t dim, cudaStream_t stream);

}  // namespace cuda
}  // namespace spkv
