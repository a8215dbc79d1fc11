// The cache as it lies in device memory. See core/cache.h for what it means, common/page.cuh for a page.
//
// The pool is an array of pages. Which pages a list has stands in its row of the table; lists are numbered
// (layer * sequences + sequence) * kvHeads + head:
//
//   table row:     ring 0 .. ring R-1 | kept 0 .. kept ceil(N/64)-1 | unused (never read)
//                  0          R                                      table_pages
//
//   ring           slot p mod S has the pair of position p, S = window + slack; with T pairs seen,
//                  positions [T - window, T) are live
//   kept           pairs [0, N) that have left the window, in order of position
//
//   free pages:    [ page ids not in any row ............ | garbage ]
//                  0                                 free_count
//
// Only insertion changes the cache within a step; what cannot be completed raises a fault (common/fault.cuh)
// and changes nothing, and neither do the steps that were enqueued behind it.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "core/view.h"

namespace spkv {
namespace cuda {

// What an insertion wanted that the pool did not have. Means something once its fault has been raised.
struct PoolShortage {
  int64_t needed = 0;
  int64_t free = 0;
};

struct CacheState {
  // Whether pages have the swizzled form of common/page.cuh, which the fast kernels want: bf16 or fp8 and a
  // head size of 64 or 128. All others have the plain form of common/page_layout.cuh.
  bool swizzled = true;
  DType dtype = DType::kBF16;
  int64_t page_bytes = 0;
  int32_t layers = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  int32_t window = 0;
  int32_t ring_slots = 0;   // S
  int32_t ring_pages = 0;   // R
  int32_t keep_words = 0;   // ceil(S / 32)
  int32_t sequences = 0;    // room for so many
  int32_t table_pages = 0;  // length of a table row
  int32_t capacity_pages = 0;

  uint8_t* pool = nullptr;           // [capacity_pages][page bytes], aligned as pages are
  int32_t* table = nullptr;          // [lists][table_pages]
  int32_t* kept = nullptr;           // [lists] N
  uint32_t* keep = nullptr;          // [lists][keep_words] bit s: the pair in ring slot s is to be kept
  int32_t* length = nullptr;         // [sequences] T
  int32_t* oldest = nullptr;         // [sequences] the ring holds the pairs of positions [oldest, T)
  int32_t* references = nullptr;     // [capacity_pages] lists that have the page; 0: it is free
  float* threshold = nullptr;        // [sequences]
  int32_t* free_pages = nullptr;     // [capacity_pages]
  int32_t* free_count = nullptr;     // [1]
  int32_t* least_free = nullptr;     // [1] the fewest pages that were ever free
  PoolShortage* shortage = nullptr;  // [1]

  __host__ __device__ int64_t list(int layer, int sequence, int head) const {
    return (int64_t{layer} * sequences + sequence) * kv_heads + head;
  }
};

}  // namespace cuda
}  // namespace spkv
