// Brings the local pairs of a step into pages, and finds out which of them are kept.
#pragma once

#include "cuda/prefill_expand.cuh"

namespace spkv {
namespace cuda {

constexpr int kKeepThreads = 512;
constexpr int kPackThreads = 256;

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
  if (blockIdx.x == 0 && threadIdx.x == 0) *step.next_item = 0;
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

// Sets the halves of the words to 0 that are not finite, and notes where in the page they were: `slots` has a
// number for each of the chunk's components.
__device__ __forceinline__ uint4 clear_non_finite(uint4 data, int row, unsigned long long* slots) {
  uint32_t words[4] = {data.x, data.y, data.z, data.w};
  for (int i = 0; i < 4; i++) {
    uint32_t bad = non_finite_halves(words[i]);
    words[i] &= ~bad;
    if (bad & 0xffffu) atomicOr(slots + 2 * i, 1ull << row);
    if (bad & 0xffff0000u) atomicOr(slots + 2 * i + 1, 1ull << row);
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

// Writes the keys or values of a local page, and those that are kept and will leave a window to the closed
// pages. `part` is where in a page they are. With `slots`, one number per component, clears what is not
// finite in the local page, and says whether there was any.
template <int kDim, bool kFp8>
__device__ __forceinline__ bool pack_rows(const PrefillStep& step, const Chunk& chunk, const PackedPage& to,
                                          const Rows& rows, int part, unsigned long long* slots) {
  constexpr int kRowChunks = kDim / kChunkDims, kPageBytes = page_bytes(kDim);
  constexpr int kCachedBytes = kFp8 ? fp8_page_bytes(kDim) : kPageBytes;
  bool cleared = false;
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
    if (i < to.candidates && (to.keep >> row & 1)) {
      int rank = to.kept_before + __popcll(to.keep & bit_range(0, row));
      uint8_t* page = to.closed + int64_t{rank / kPageSlots} * step.cache.kv_heads * kPageBytes;
      *reinterpret_cast<uint4*>(page + part + chunk_offset(rank % kPageSlots, c)) = data;
    }
    if (slots && (non_finite_halves(data.x) | non_finite_halves(data.y) | non_finite_halves(data.z) |
                  non_finite_halves(data.w)) != 0) {
      data = clear_non_finite(data, row, slots + c * kChunkDims);
      cleared = true;
    }
    *reinterpret_cast<uint4*>(to.local + part + chunk_offset(row, c)) = data;
  }
  return cleared;
}

// Writes one local page and its share of the closed ones. A block per (local page, KV head).
template <int kDim, bool kFp8>
__global__ void __launch_bounds__(kPackThreads, 4) pack_kernel(const __grid_constant__ PrefillStep step) {
  constexpr int kPageBytes = page_bytes(kDim);
  __shared__ unsigned long long slots[kDim];  // see PrefillStep::non_finite
  int heads = step.cache.kv_heads, head = blockIdx.x % heads, index = blockIdx.x / heads;
  int b = find_sequence(step.batch, index, [&](int i) { return step.first_local_page(i); });
  int page = index - step.first_local_page(b);
  Chunk chunk(step, b, head);
  if (chunk.tokens == 0 || page * kPageSlots >= chunk.local_pairs()) return;
  if (threadIdx.x < kDim) slots[threadIdx.x] = 0;
  __syncthreads();
  int64_t number = chunk.local_page + page * heads;
  LocalPage* info = step.local_info + number;
  PackedPage to{page,
                head,
                step.local_pages + number * kPageBytes,
                step.closed_pages + int64_t{chunk.closed_page} * kPageBytes,
                info->keep,
                info->kept_before,
                chunk.candidates(step.cache)};
  pack_rows<kDim, kFp8>(step, chunk, to, step.keys, 0, nullptr);
  bool cleared = pack_rows<kDim, kFp8>(step, chunk, to, step.values, values_offset(kDim), slots);
  int non_finite = __syncthreads_or(cleared);
  if (threadIdx.x == 0) info->non_finite = non_finite;
  if (non_finite && threadIdx.x < kDim) step.non_finite[number * kDim + threadIdx.x] = slots[threadIdx.x];
}

}  // namespace cuda
}  // namespace spkv
