// Prefill attention multiplies bf16 pages. Of an fp8 cache it makes such pages first: of the pairs in the
// ring where local pages are packed, and here of all kept pages that the step reads. Nothing is lost, as bf16
// holds every number that fp8 does, and it costs little beside multiplying them.
#pragma once

#include "core/fp8.h"
#include "cuda/common/ptx.cuh"
#include "cuda/prefill_chunk.cuh"

namespace spkv {
namespace cuda {

constexpr int kExpandThreads = 256;
// Blocks that share the pages of a list.
constexpr int kExpandBlocks = 16;

// Components [8c, 8c + 8) of a slot's key or value in an fp8 page, as bf16.
template <int kDim>
__device__ __forceinline__ uint4 expand_chunk(const uint8_t* page, int slot, bool value, int c) {
  uint8_t scale = page[fp8_scales_offset(kDim) + (value ? kPageSlots : 0) + slot];
  int chunk = (value ? kDim / kFp8ChunkDims : 0) + c / 2;
  uint2 codes = *reinterpret_cast<const uint2*>(page + chunk_offset(slot, chunk) + c % 2 * 8);
  auto number = [&](uint32_t word, int i) {
    return fp8::decode(static_cast<uint8_t>(word >> (8 * i)), scale);
  };
  auto pair = [&](uint32_t word, int i) { return pack_bf16(number(word, i), number(word, i + 1)); };
  return make_uint4(pair(codes.x, 0), pair(codes.x, 2), pair(codes.y, 0), pair(codes.y, 2));
}

// 8 numbers of a new key or value as an fp8 cache will hold them, as bf16. The lanes beside this one have the
// others of the row.
template <int kDim>
__device__ __forceinline__ uint4 stored_chunk(const float (&x)[kChunkDims]) {
  constexpr int kLanes = kDim / kChunkDims;
  unsigned mates = ((1u << kLanes) - 1) << (threadIdx.x % 32 / kLanes * kLanes);
  uint32_t largest = 0;
  for (float number : x) largest = max(largest, fp8::magnitude(number));
#pragma unroll
  for (int step = 1; step < kLanes; step *= 2) largest = max(largest, __shfl_xor_sync(mates, largest, step));
  uint8_t scale = fp8::scale_of(largest);
  auto number = [&](int i) { return fp8::decode(fp8::encode(x[i], scale), scale); };
  auto pair = [&](int i) { return pack_bf16(number(i), number(i + 1)); };
  return make_uint4(pair(0), pair(2), pair(4), pair(6));
}

// Of a list of the step, (sequence, KV head), how many kept pages there are.
__device__ __forceinline__ int kept_pages(const PrefillStep& step, int item) {
  int heads = step.cache.kv_heads;
  int64_t list = step.cache.list(step.layer, step.slots[item / heads], item % heads);
  return (step.cache.kept[list] + kPageSlots - 1) / kPageSlots;
}

// Makes bf16 pages of the kept pages of all lists of the step, one list behind the other. kExpandBlocks
// blocks per list; each adds up for itself where its list begins.
template <int kDim>
__global__ void __launch_bounds__(kExpandThreads, 4) expand_kernel(const __grid_constant__ PrefillStep step) {
  __shared__ int first;
  int item = blockIdx.x / kExpandBlocks, part = blockIdx.x % kExpandBlocks, heads = step.cache.kv_heads;
  if (threadIdx.x == 0) first = 0;
  __syncthreads();
  int before = 0;
  for (int i = threadIdx.x; i < item; i += kExpandThreads) before += kept_pages(step, i);
  __syncwarp();
  before = __reduce_add_sync(~0u, before);
  if (threadIdx.x % 32 == 0) atomicAdd(&first, before);
  __syncthreads();
  if (part == 0 && threadIdx.x == 0) step.expanded.first[item] = first;
  int pages = kept_pages(step, item);
  int64_t list = step.cache.list(step.layer, step.slots[item / heads], item % heads);
  const int32_t* ids = step.cache.table + list * step.cache.table_pages + step.cache.ring_pages;
  for (int page = part; page < pages; page += kExpandBlocks) {
    const uint8_t* from = step.cache.pool + int64_t{ids[page]} * fp8_page_bytes(kDim);
    uint8_t* to = step.expanded.pages + int64_t{first + page} * page_bytes(kDim);
    if (threadIdx.x == 0) step.expanded.ids[first + page] = first + page;
#pragma unroll 2
    for (int i = threadIdx.x; i < page_bytes(kDim) / kChunkBytes; i += kExpandThreads) {
      constexpr int kRowChunks = kDim / kChunkDims;
      int c = i % kRowChunks, slot = i / kRowChunks % kPageSlots;
      bool value = i >= kPageSlots * kRowChunks;
      *reinterpret_cast<uint4*>(to + (value ? values_offset(kDim) : 0) + chunk_offset(slot, c)) =
          expand_chunk<kDim>(from, slot, value, c);
    }
  }
}

}  // namespace cuda
}  // namespace spkv
