// Sums, extremes and running sums over the threads of a warp or a block, in a fixed order. Blocks are whole
// warps; every thread of the block takes part and gets the result.
#pragma once

#include <cstdint>

namespace spkv {
namespace cuda {

struct Sum {
  template <typename T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Least {
  template <typename T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return b < a ? b : a;
  }
};
// NaN does not count.
struct Largest {
  __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

template <typename T, typename Combine>
__device__ __forceinline__ T warp_reduce(T x, Combine combine) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    x = combine(x, __shfl_xor_sync(~0u, x, distance));
  }
  return x;
}

// Over the x dimension of the block, which is either all of it or one warp. `nothing` changes no result.
template <typename T, typename Combine>
__device__ __forceinline__ T block_reduce(T x, T nothing, Combine combine) {
  x = warp_reduce(x, combine);
  if (blockDim.x == 32) return x;
  __shared__ T parts[32];
  const unsigned lane = threadIdx.x % 32;
  __syncthreads();  // the last result has been read
  if (lane == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
  return warp_reduce(lane < blockDim.x / 32 ? parts[lane] : nothing, combine);
}

// The sum over the threads before this one.
template <typename T>
__device__ __forceinline__ T block_sum_before(T x) {
  __shared__ T parts[32];
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  T sum = x;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const T other = __shfl_up_sync(~0u, sum, distance);
    if (lane >= static_cast<unsigned>(distance)) sum += other;
  }
  __syncthreads();  // the last result has been read
  if (lane == 31) parts[warp] = sum;
  __syncthreads();
  T before = sum - x;
  for (unsigned i = 0; i < warp; i++) before += parts[i];
  return before;
}

}  // namespace cuda
}  // namespace spkv
