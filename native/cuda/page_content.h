// What pages hold, moved out and in for saved sequences, and made unusable where nobody wrote.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/cache_state.h"

namespace spkv {
namespace cuda {

// One list whose pairs lie in a row of memory, as in core/saved_sequence.h:
//   keys [kept], values [kept], keys [ring], values [ring]
struct ListRows {
  int64_t list = 0;
  int32_t kept = 0;    // N
  int32_t oldest = 0;  // position of the first pair in the ring
  int32_t ring = 0;    // pairs there
  uint8_t* rows = nullptr;
};

cudaError_t read_rows(const CacheState& cache, const ListRows& list, cudaStream_t stream);
cudaError_t write_rows(const CacheState& cache, const ListRows& list, cudaStream_t stream);

// See Cache::poison.
cudaError_t poison_free_pages(const CacheState& cache, cudaStream_t stream);
cudaError_t poison_dead_slots(const CacheState& cache, int slot, cudaStream_t stream);

}  // namespace cuda
}  // namespace spkv
