// Moving single pairs between pages and tensors, in units of which a thread moves one at a time: 16-byte
// chunks of a swizzled page, else single numbers. Units [0, count) of a pair are its key, [count, 2 * count)
// its value.
#pragma once

#include "cuda/common/page_layout.cuh"

namespace spkv {
namespace cuda {

// Eight numbers as a chunk of a page.
__device__ __forceinline__ uint4 make_chunk(const float (&x)[kChunkDims]) {
  union {
    __nv_bfloat162 pairs[kChunkDims / 2];
    uint4 chunk;
  } out;
  for (int i = 0; i < kChunkDims / 2; i++) {
    out.pairs[i].x = __float2bfloat16_rn(x[2 * i]);
    out.pairs[i].y = __float2bfloat16_rn(x[2 * i + 1]);
  }
  return out.chunk;
}

// `aligned`: `from` is a multiple of 16 bytes.
__device__ __forceinline__ uint4 load_chunk(const float* from, bool aligned) {
  float x[kChunkDims];
  if (aligned) {
    float4 low = *reinterpret_cast<const float4*>(from), high = *reinterpret_cast<const float4*>(from + 4);
    x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w;
    x[4] = high.x, x[5] = high.y, x[6] = high.z, x[7] = high.w;
  } else {
    for (int i = 0; i < kChunkDims; i++) x[i] = from[i];
  }
  return make_chunk(x);
}

struct PairUnits {
  PageLayout layout;
  int width;  // numbers in a unit
  int count;  // units of a key, and of a value

  __device__ explicit PairUnits(const CacheState& cache)
      : layout(cache), width(cache.swizzled ? kChunkDims : 1), count(cache.head_dim / width) {}

  // Bytes from the start of a page.
  __device__ int64_t offset(int slot, int unit) const {
    return unit < count ? layout.key(slot, unit * width) : layout.value(slot, (unit - count) * width);
  }
  __device__ void copy(uint8_t* page, int slot, const uint8_t* from_page, int from_slot, int unit) const {
    uint8_t* to = page + offset(slot, unit);
    const uint8_t* from = from_page + offset(from_slot, unit);
    if (layout.swizzled) {
      *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
    } else if (layout.bf16) {
      *reinterpret_cast<uint16_t*>(to) = *reinterpret_cast<const uint16_t*>(from);
    } else {
      *reinterpret_cast<uint32_t*>(to) = *reinterpret_cast<const uint32_t*>(from);
    }
  }
  // From a pair's rows in tensors; `aligned`: rows are multiples of 16 bytes.
  __device__ void store(uint8_t* page, int slot, int unit, const float* key, const float* value,
                        bool aligned) const {
    uint8_t* to = page + offset(slot, unit);
    const float* from = unit < count ? key + unit * width : value + (unit - count) * width;
    if (layout.swizzled) {
      *reinterpret_cast<uint4*>(to) = load_chunk(from, aligned);
    } else {
      layout.write(to, *from);
    }
  }
};

__device__ __forceinline__ uint8_t* page_at(const CacheState& cache, int32_t page) {
  return cache.pool + page * cache.page_bytes;
}

}  // namespace cuda
}  // namespace spkv
