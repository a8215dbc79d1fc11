// The backward of gated attention on Hopper's matrix instructions. The gradients of keys, values and gates
// are summed in one order each; that of the queries is added up in f32 as blocks come along.
#pragma once

#include "cuda/gated_tile.cuh"

namespace spkv {
namespace cuda {

struct GatedBackward {
  TensorMap q, d_out;                    // tiles of gated_step_queries(D) tokens
  TensorMap keys, values;                // tiles of kKeyTile tokens
  TensorMap sorted_keys, sorted_values;  // in the order of the lists, for heads that drop keys
  KeyLists lists;                        // gates times log2 e; tiles of kKeyTile and an extra one
  GatedGrid grid;                        // parts is 1
  GatedRows dk, dv;
  float* d_gates = nullptr;  // or null
  int64_t d_gates_stride = 0;
  // Per head and row of queries, documents beginning at multiples of 128: -log_sum_exp / scale, -dO . out,
  // and the gradient of q before it is scaled, in the order in which threads hold it (gated_rows.h).
  int64_t query_rows = 0;
  const float *log_sums = nullptr, *products = nullptr;
  float* dq_sums = nullptr;
  int window = 1;  // no longer than the longest document
  float scale = 1;

  __host__ __device__ static int64_t first_row(int64_t offset, int document) {
    return (offset / kKeyTile + document) * kKeyTile;
  }
};

// How many queries a block takes at a time.
constexpr int gated_step_queries(int64_t dim) { return dim == 128 ? 64 : 128; }

// D is 64 or 128. dq_sums is 0 before.
cudaError_t launch_gated_backward(const GatedBackward& params, int64_t dim, cudaStream_t stream);

}  // namespace cuda
}  // namespace spkv
