// What the kernels of prefill attention know of a step, and the chunk of one of its (sequence, KV head)
// lists.
//
// New keys and values are first brought into pages like those of the cache, in scratch memory:
//
//   local pages     [offsets[b] / 64 + b * (ceil(window / 64) + 1) + p][G]   local pairs 64p .. 64p + 63
//   closed pages    [offsets[b] / 64 + b + p][G]                             kept pairs 64p .. 64p + 63
//
// Where a sequence's pages begin depends on the offsets alone, so nothing has to be planned on the host.
#pragma once

#include <cuda_runtime.h>

#include "cuda/cache_state.h"
#include "cuda/common/page.cuh"
#include "cuda/common/ptx.cuh"

namespace spkv {
namespace cuda {

// What is known of a local page.
struct LocalPage {
  uint64_t keep;        // bit r: pair r is kept
  int32_t kept_before;  // kept pairs in the local pages before
  int32_t non_finite;   // whether a value is not a finite number; the page has 0 in its place
};

// A tensor [T][heads][D] of f32.
struct Rows {
  float* data;
  int64_t token_stride, head_stride;
  bool vectors;  // whether every row starts at a multiple of 16 bytes

  __device__ float* row(int64_t token, int head) const {
    return data + token * token_stride + head * head_stride;
  }
};

// The kept pages of an fp8 cache as bf16 pages: see prefill_expand.cuh.
struct ExpandedPages {
  uint8_t* pages = nullptr;  // null: the cache has bf16 pages
  int32_t* ids = nullptr;    // [pages] their numbers
  int32_t* first = nullptr;  // [B * G] the first page of a list
};

struct PrefillStep {
  Rows out, q, keys, values;
  const float* utilities;  // null: everything is kept
  int64_t utility_stride;
  CacheState cache;
  const int32_t *slots, *offsets;
  int batch, layer, group;  // group: query heads per KV head
  float scale_log2;
  uint8_t *local_pages, *closed_pages;
  LocalPage* local_info;  // as local_pages
  // [local page][D] bit r: this component of pair r's value is not finite. Only of pages that say so.
  uint64_t* non_finite;
  int tokens;
  int32_t* next_item;  // the first that no block has, where blocks take one after another
  ExpandedPages expanded;

  // The bf16 pages that kept pairs are in, and which of them a list has.
  __device__ const uint8_t* kept_pool() const { return expanded.pages ? expanded.pages : cache.pool; }
  __device__ const int32_t* kept_ids(int b, int head, int64_t list) const {
    return expanded.pages ? expanded.ids + expanded.first[b * cache.kv_heads + head]
                          : cache.table + list * cache.table_pages + cache.ring_pages;
  }

  __host__ __device__ int extra_local_pages() const {
    return (cache.window + kPageSlots - 1) / kPageSlots + 1;
  }
  __device__ int first_local_page(int b) const { return offsets[b] / kPageSlots + b * extra_local_pages(); }
  int local_page_count() const { return tokens / kPageSlots + batch * extra_local_pages(); }
  __device__ int first_closed_page(int b) const { return offsets[b] / kPageSlots + b; }
  int closed_page_count() const { return tokens / kPageSlots + batch; }
  // Of (tile of query rows, KV head).
  __host__ __device__ int item_count(int tile_rows) const {
    return (tokens * group / tile_rows + batch) * cache.kv_heads;
  }
};

// Bits [begin, end) of 64; bounds may lie outside.
__device__ __forceinline__ uint64_t bit_range(int begin, int end) {
  uint64_t from = begin <= 0 ? ~uint64_t{0} : begin >= 64 ? 0 : ~uint64_t{0} << begin;
  uint64_t to = end >= 64 ? ~uint64_t{0} : end <= 0 ? 0 : (uint64_t{1} << end) - 1;
  return from & to;
}

// The halves of a register, two bf16, that are not finite: 0xffff in their place.
__device__ __forceinline__ uint32_t non_finite_halves(uint32_t pair) {
  return ((pair & 0x7f80u) == 0x7f80u ? 0xffffu : 0u) |
         ((pair & 0x7f800000u) == 0x7f800000u ? 0xffff0000u : 0u);
}

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

// The last sequence whose first(b) is at most `index`. first rises.
template <typename First>
__device__ __forceinline__ int find_sequence(int batch, int index, const First& first) {
  int low = 0, high = batch;
  while (high - low > 1) {
    int middle = (low + high) / 2;
    if (first(middle) <= index) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

// One sequence of the step, in one KV head. Local pairs are counted from 0.
struct Chunk {
  int first_token, tokens;  // of the step
  int length;               // pairs cached
  int ring;                 // of these, live in the ring: the first local pairs
  int64_t list;
  const int32_t* kept_ids;
  int local_page, closed_page;  // the first ones; the next is kv_heads further on

  __device__ __forceinline__ Chunk(const PrefillStep& step, int b, int head) {
    int slot = step.slots[b];
    first_token = step.offsets[b];
    tokens = step.offsets[b + 1] - first_token;
    length = step.cache.length[slot];
    ring = length < step.cache.window ? length : step.cache.window;
    list = step.cache.list(step.layer, slot, head);
    kept_ids = step.kept_ids(b, head, list);
    local_page = step.first_local_page(b) * step.cache.kv_heads + head;
    closed_page = step.first_closed_page(b) * step.cache.kv_heads + head;
  }

  __device__ int local_pairs() const { return ring + tokens; }
  // Local pairs that some query has behind its window.
  __device__ int candidates(const CacheState& cache) const {
    int count = local_pairs() - cache.window;
    return count > 0 ? count : 0;
  }
  __device__ int ring_slot(const CacheState& cache, int pair) const {
    return (length - ring + pair) % cache.ring_slots;
  }
};

}  // namespace cuda
}  // namespace spkv
