// Where the numbers of a page are, for kernels that take every geometry. Swizzled pages are drawn in
// page.cuh; plain ones have the rows of the keys and then those of the values:
//
//   keys [64][D]  values [64][D]      f32 or bf16
#pragma once

#include <cuda_bf16.h>

#include "cuda/cache_state.h"
#include "cuda/common/page.cuh"

namespace spkv {
namespace cuda {

struct PageLayout {
  int head_dim;
  bool bf16, swizzled;

  __host__ __device__ explicit PageLayout(const CacheState& cache)
      : head_dim(cache.head_dim), bf16(cache.bf16), swizzled(cache.swizzled) {}

  // Bytes from the start of a page to component `d` of the key in `slot`.
  __host__ __device__ int64_t key(int slot, int d) const {
    if (swizzled) return chunk_offset(slot, d / kChunkDims) + d % kChunkDims * 2;
    return (int64_t{slot} * head_dim + d) * (bf16 ? 2 : 4);
  }
  __host__ __device__ int64_t value(int slot, int d) const {
    int64_t keys = swizzled ? values_offset(head_dim) : int64_t{kPageSlots} * head_dim * (bf16 ? 2 : 4);
    return keys + key(slot, d);
  }
  static __host__ __device__ int64_t bytes(int head_dim, bool bf16) {
    return int64_t{2} * kPageSlots * head_dim * (bf16 ? 2 : 4);
  }

  __device__ float read(const uint8_t* at) const {
    return bf16 ? __bfloat162float(*reinterpret_cast<const __nv_bfloat16*>(at))
                : *reinterpret_cast<const float*>(at);
  }
  __device__ void write(uint8_t* at, float x) const {
    if (bf16) {
      *reinterpret_cast<__nv_bfloat16*>(at) = __float2bfloat16_rn(x);
    } else {
      *reinterpret_cast<float*>(at) = x;
    }
  }
};

}  // namespace cuda
}  // namespace spkv
