// Where the numbers of a page are, for kernels that take every geometry. Swizzled pages are drawn in
// page.cuh; plain ones have the rows of the keys and then those of the values:
//
//   keys [64][D]  values [64][D]      f32, bf16 or fp8; in fp8 then the scales: keys' [64]  values' [64]
#pragma once

#include <cuda_bf16.h>

#include "core/fp8.h"
#include "cuda/cache_state.h"
#include "cuda/common/page.cuh"

namespace spkv {
namespace cuda {

struct PageLayout {
  int head_dim;
  DType dtype;
  bool swizzled;

  __host__ __device__ explicit PageLayout(const CacheState& cache)
      : head_dim(cache.head_dim), dtype(cache.dtype), swizzled(cache.swizzled) {}

  __host__ __device__ int element_bytes() const { return static_cast<int>(dtype_bytes(dtype)); }
  __host__ __device__ int chunk_dims() const { return kChunkBytes / element_bytes(); }

  // Bytes from the start of a page to component `d` of the key in `slot`, or of the value.
  __host__ __device__ int64_t number(int slot, bool value, int d) const {
    int bytes = element_bytes();
    if (swizzled) {
      int chunk = (value ? head_dim : 0) / chunk_dims() + d / chunk_dims();
      return chunk_offset(slot, chunk) + d % chunk_dims() * bytes;
    }
    return ((value ? int64_t{kPageSlots} : 0) + slot) * head_dim * bytes + d * bytes;
  }
  // To the scale of an fp8 key or value.
  __host__ __device__ int64_t scale(int slot, bool value) const {
    return int64_t{2} * kPageSlots * head_dim + (value ? kPageSlots : 0) + slot;
  }
  static __host__ __device__ int64_t bytes(int head_dim, DType dtype) {
    return int64_t{2} * kPageSlots * (head_dim * dtype_bytes(dtype) + (dtype == DType::kFP8 ? 1 : 0));
  }

  __device__ float read(const uint8_t* page, int slot, bool value, int d) const {
    const uint8_t* at = page + number(slot, value, d);
    if (dtype == DType::kFP8) return fp8::decode(*at, page[scale(slot, value)]);
    return dtype == DType::kBF16 ? __bfloat162float(*reinterpret_cast<const __nv_bfloat16*>(at))
                                 : *reinterpret_cast<const float*>(at);
  }
};

}  // namespace cuda
}  // namespace spkv
