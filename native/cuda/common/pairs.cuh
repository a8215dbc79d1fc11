// Moving single pairs between pages and tensors, in units of which a thread moves one at a time: 16-byte
// chunks of a swizzled page, else single numbers. Units [0, count) of a pair are its key, [count, 2 * count)
// its value; whoever moves the first unit of an fp8 row moves its scale.
#pragma once

#include "cuda/common/page_layout.cuh"
#include "cuda/common/ptx.cuh"
#include "cuda/new_pairs.h"

namespace spkv {
namespace cuda {

// `aligned`: `from` is a multiple of 16 bytes.
template <int kCount>
__device__ __forceinline__ void load_numbers(const float* from, bool aligned, float (&x)[kCount]) {
  if (aligned) {
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
      float4 four = *reinterpret_cast<const float4*>(from + i);
      x[i] = four.x, x[i + 1] = four.y, x[i + 2] = four.z, x[i + 3] = four.w;
    }
  } else {
#pragma unroll
    for (int i = 0; i < kCount; i++) x[i] = from[i];
  }
}

// Four numbers of an fp8 row as a word.
__device__ __forceinline__ uint32_t make_word(const float* from, bool aligned, uint8_t scale) {
  float x[4];
  load_numbers(from, aligned, x);
  uint32_t word = 0;
#pragma unroll
  for (int i = 0; i < 4; i++) word |= uint32_t{fp8::encode(x[i], scale)} << (8 * i);
  return word;
}

// Eight numbers as a chunk of a bf16 page.
__device__ __forceinline__ uint4 make_chunk(const float* from, bool aligned) {
  float x[kChunkDims];
  load_numbers(from, aligned, x);
  return make_uint4(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]),
                    pack_bf16(x[6], x[7]));
}

// Writes the chunk of a page for which the numbers of a row start at `from`; `scale` is the row's in fp8.
template <DType kDType>
__device__ __forceinline__ void write_chunk(uint8_t* to, const float* from, bool aligned, uint8_t scale) {
  if constexpr (kDType == DType::kFP8) {
    // One word after the other: a kernel has few registers left here.
#pragma unroll 1
    for (int i = 0; i < kFp8ChunkDims; i += 4)
      reinterpret_cast<uint32_t*>(to)[i / 4] = make_word(from + i, aligned, scale);
  } else {
    *reinterpret_cast<uint4*>(to) = make_chunk(from, aligned);
  }
}

struct PairUnits {
  PageLayout layout;
  int width;  // numbers in a unit
  int count;  // units of a key, and of a value

  __device__ explicit PairUnits(const CacheState& cache)
      : layout(cache), width(cache.swizzled ? layout.chunk_dims() : 1), count(cache.head_dim / width) {}

  __device__ void copy(uint8_t* page, int slot, const uint8_t* from_page, int from_slot, int unit) const {
    bool value = unit >= count;
    int d = (value ? unit - count : unit) * width;
    uint8_t* to = page + layout.number(slot, value, d);
    const uint8_t* from = from_page + layout.number(from_slot, value, d);
    if (layout.swizzled) {
      *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
    } else if (layout.dtype == DType::kFP8) {
      *to = *from;
    } else if (layout.dtype == DType::kBF16) {
      *reinterpret_cast<uint16_t*>(to) = *reinterpret_cast<const uint16_t*>(from);
    } else {
      *reinterpret_cast<uint32_t*>(to) = *reinterpret_cast<const uint32_t*>(from);
    }
    if (layout.dtype == DType::kFP8 && d == 0)
      page[layout.scale(slot, value)] = from_page[layout.scale(from_slot, value)];
  }

  __device__ void store(uint8_t* page, int slot, const NewPair& pair, int unit) const {
    bool value = unit >= count;
    int d = (value ? unit - count : unit) * width;
    uint8_t* to = page + layout.number(slot, value, d);
    const float* from = (value ? pair.value : pair.key) + d;
    if (layout.dtype == DType::kFP8) {
      uint8_t scale = pair.scales[value];
      if (layout.swizzled) {
        write_chunk<DType::kFP8>(to, from, pair.aligned, scale);
      } else {
        *to = fp8::encode(*from, scale);
      }
      if (d == 0) page[layout.scale(slot, value)] = scale;
    } else if (layout.swizzled) {
      write_chunk<DType::kBF16>(to, from, pair.aligned, 0);
    } else if (layout.dtype == DType::kBF16) {
      *reinterpret_cast<__nv_bfloat16*>(to) = __float2bfloat16_rn(*from);
    } else {
      *reinterpret_cast<float*>(to) = *from;
    }
  }
};

__device__ __forceinline__ uint8_t* page_at(const CacheState& cache, int32_t page) {
  return cache.pool + page * cache.page_bytes;
}

}  // namespace cuda
}  // namespace spkv
