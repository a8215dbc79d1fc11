// How rms_norm and its backward pass divide rows among threads: the x dimension of a block takes a row, a
// warp where rows are short, and then several to a block.
#pragma once

#include "cuda/common/elements.cuh"
#include "cuda/common/launch.cuh"

namespace spkv {
namespace cuda {

constexpr int kNormWidth = 4;
constexpr int kNormPacks = 2;  // of kNormWidth elements, a thread's of a row that it reads once
constexpr unsigned kMostNormThreads = 512;

struct NormBlock {
  bool short_row;  // few enough columns for every thread to keep its own, if they are aligned
  dim3 threads;

  explicit NormBlock(int64_t columns) {
    constexpr int kKept = kNormPacks * kNormWidth;
    short_row = columns % kNormWidth == 0 && columns <= int64_t{kMostNormThreads} * kKept;
    const unsigned x = threads_for(blocks_for(columns, short_row ? kKept : kNormWidth), kMostNormThreads);
    threads = dim3(x, x == 32 ? 8 : 1);
  }
};

// The rows of [T, N] or [T, heads, N], and where they begin.
struct NormRows {
  int64_t heads, columns;

  __device__ __forceinline__ explicit NormRows(const View& x)
      : heads(x.rank == 3 ? x.shape[1] : 1), columns(x.rank == 3 ? x.shape[2] : x.shape[1]) {}
  __device__ __forceinline__ int64_t start(const View& view, int64_t row) const {
    return row / heads * view.stride[0] + (heads > 1 ? row % heads * view.stride[1] : 0);
  }
};

// Calls act(p, i) for pack p of the thread, which begins at element i of a short row.
template <typename Act>
__device__ __forceinline__ void for_packs(int64_t columns, const Act& act) {
#pragma unroll
  for (int p = 0; p < kNormPacks; p++) {
    const int64_t i = (int64_t{p} * blockDim.x + threadIdx.x) * kNormWidth;
    if (i < columns) act(p, i);
  }
}

}  // namespace cuda
}  // namespace spkv
