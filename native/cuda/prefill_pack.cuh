// Brings the local pairs of a step into pages, and finds out which of them are kept.
#pragma once

#include <cuda_bf16.h>

#include "cuda/common/ptx.cuh"
#include "cuda/prefill_expand.cuh"

namespace spkv {
namespace cuda {

constexpr int kKeepThreads = 512;
constexpr int kPackThreads = 256;

// 8 numbers of a row.
__device__ __forceinline__ void load_dims(const float* from, bool vectors, float (&x)[kChunkDims]) {
  if (vectors) {
    float4 low = __ldg(reinterpret_cast<const float4*>(from));
    float4 high = __ldg(reinterpret_cast<const float4*>(from) + 1);
    x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w;
    x[4] = high.x, x[5] = high.y, x[6] = high.z, x[7] = high.w;
  } else {
#pragma unroll
    for (int i = 0; i < kChunkDims; i++) x[i] = __ldg(from + i);
  }
}

__device__ __forceinline__ uint4 load_chunk(const float* from, bool vectors) {
  float x[kChunkDims];
  load_dims(from, vectors, x);
  return make_uint4(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]),
                    pack_bf16(x[6], x[7]));
}

// Whether local pair i is kept.
__device__ __forceinline__ bool is_kept(const PrefillStep& step, const Chunk& chunk, int head,
                                        float threshold, int i) {
  if (i >= chunk.local_pairs()) return false;
  if (i < chunk.ring) {
    int slot = chunk.ring_slot(step.cache, i);
    return step.cache.keep[chunk.list * step.cache.keep_words + slot / 32] >> (slot % 32) & 1;
  }
  if (step.utilities == nullptr) return true;
  int64_t token = chunk.first_token + i - chunk.ring;
  return __ldg(step.utilities + token * step.utility_stride + head) >= threshold;
}

// Fills in `keep` and `kept_before` of a list's local pages. A block per (sequence, KV head).
__global__ void __launch_bounds__(kKeepThreads) keep_kernel(const __grid_constant__ PrefillStep step) {
  __shared__ int32_t warp_counts[kKeepThreads / 32];
  int heads = step.cache.kv_heads, head = blockIdx.x % heads, b = blockIdx.x / heads, warp = threadIdx.x / 32,
      lane = threadIdx.x % 32;
  Chunk chunk(step, b, head);
  if (chunk.tokens == 0) return;
  LocalPage* info = step.local_info + chunk.local_page;
  int pages = (chunk.local_pairs() + kPageSlots - 1) / kPageSlots;
  float threshold = step.cache.threshold[step.slots[b]];
#pragma unroll 4
  for (int page = warp; page < pages; page += kKeepThreads / 32) {
    bool low = is_kept(step, chunk, head, threshold, page * kPageSlots + lane);
    bool high = is_kept(step, chunk, head, threshold, page * kPageSlots + 32 + lane);
    uint64_t keep = __ballot_sync(~0u, low) | static_cast<uint64_t>(__ballot_sync(~0u, high)) << 32;
    if (lane == 0) info[int64_t{page} * heads].keep = keep;
  }
  __syncthreads();
  int32_t before = 0;
  for (int base = 0; base < pages; base += kKeepThreads) {
    int page = base + threadIdx.x;
    int32_t own = page < pages ? __popcll(info[int64_t{page} * heads].keep) : 0, sum = own;
    for (int step = 1; step < 32; step *= 2) {
      int32_t other = __shfl_up_sync(~0u, sum, step);
      if (lane >= step) sum += other;
    }
    if (lane == 31) warp_counts[warp] = sum;
    __syncthreads();
    int32_t total = 0;
    for (int i = 0; i < kKeepThreads / 32; i++) {
      if (i == warp) sum += total;
      total += warp_counts[i];
    }
    if (page < pages) info[int64_t{page} * heads].kept_before = before + sum - own;
    before += total;
    __syncthreads();
  }
}

// The part of a local page that pack_kernel writes.
struct PackedPage {
  int page, head;
  uint8_t *local, *closed;  // the page, and the first of the closed pages
  uint64_t keep;
  int kept_before, candidates;
};

// Writes the keys or values of a local page, and those that are kept and will leave a window to the closed
// pages. `part` is where in a page they are. Returns a number that is not 0 if one is not finite.
template <int kDim, bool kFp8>
__device__ __forceinline__ uint32_t pack_rows(const PrefillStep& step, const Chunk& chunk,
                                              const PackedPage& to, const Rows& rows, int part) {
  constexpr int kRowChunks = kDim / kChunkDims, kPageBytes = page_bytes(kDim);
  constexpr int kCachedBytes = kFp8 ? fp8_page_bytes(kDim) : kPageBytes;
  uint32_t bad = 0;
#pragma unroll 4
  for (int item = threadIdx.x; item < kPageSlots * kRowChunks; item += kPackThreads) {
    int c = item % kRowChunks, row = item / kRowChunks, i = to.page * kPageSlots + row;
    if (i >= chunk.local_pairs()) break;
    uint4 data;
    if (i < chunk.ring) {
      int slot = chunk.ring_slot(step.cache, i);
      int32_t id = step.cache.table[chunk.list * step.cache.table_pages + slot / kPageSlots];
      const uint8_t* page = step.cache.pool + int64_t{id} * kCachedBytes;
      if constexpr (kFp8) {
        data = expand_chunk<kDim>(page, slot % kPageSlots, part != 0, c);
      } else {
        data = *reinterpret_cast<const uint4*>(page + part + chunk_offset(slot % kPageSlots, c));
      }
    } else if constexpr (kFp8) {
      float x[kChunkDims];
      load_dims(rows.row(chunk.first_token + i - chunk.ring, to.head) + c * kChunkDims, rows.vectors, x);
      data = stored_chunk<kDim>(x);
    } else {
      data = load_chunk(rows.row(chunk.first_token + i - chunk.ring, to.head) + c * kChunkDims, rows.vectors);
    }
    bad |= non_finite_halves(data.x) | non_finite_halves(data.y) | non_finite_halves(data.z) |
           non_finite_halves(data.w);
    *reinterpret_cast<uint4*>(to.local + part + chunk_offset(row, c)) = data;
    if (i < to.candidates && (to.keep >> row & 1)) {
      int rank = to.kept_before + __popcll(to.keep & bit_range(0, row));
      uint8_t* page = to.closed + int64_t{rank / kPageSlots} * step.cache.kv_heads * kPageBytes;
      *reinterpret_cast<uint4*>(page + part + chunk_offset(rank % kPageSlots, c)) = data;
    }
  }
  return bad;
}

// Writes one local page and its share of the closed ones. A block per (local page, KV head).
template <int kDim, bool kFp8>
__global__ void __launch_bounds__(kPackThreads, 4) pack_kernel(const __grid_constant__ PrefillStep step) {
  constexpr int kPageBytes = page_bytes(kDim);
  __shared__ int32_t non_finite;
  int heads = step.cache.kv_heads, head = blockIdx.x % heads, index = blockIdx.x / heads;
  int b = find_sequence(step.batch, index, [&](int i) { return step.first_local_page(i); });
  int page = static_cast<int>(index - step.first_local_page(b));
  Chunk chunk(step, b, head);
  if (chunk.tokens == 0 || page * kPageSlots >= chunk.local_pairs()) return;
  if (threadIdx.x == 0) non_finite = 0;
  __syncthreads();
  int64_t number = chunk.local_page + int64_t{page} * heads;
  LocalPage* info = step.local_info + number;
  PackedPage to{page,
                head,
                step.local_pages + number * kPageBytes,
                step.closed_pages + chunk.closed_page * kPageBytes,
                info->keep,
                info->kept_before,
                chunk.candidates(step.cache)};
  pack_rows<kDim, kFp8>(step, chunk, to, step.keys, 0);
  if (pack_rows<kDim, kFp8>(step, chunk, to, step.values, values_offset(kDim)) != 0) non_finite = 1;
  __syncthreads();
  if (threadIdx.x == 0) info->non_finite = non_finite;
}

}  // namespace cuda
}  // namespace spkv
