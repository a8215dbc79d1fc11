// Sequences come and go: their pages are taken from the free ones, and go back there. These run between
// steps; what they need has been checked by the host.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/cache_state.h"

namespace spkv {
namespace cuda {

// Marks all pages as free.
cudaError_t reset_cache(const CacheState& cache, cudaStream_t stream);

// What a list of a new sequence begins with, where that is not nothing.
struct ListStart {
  int32_t kept;   // N
  int32_t first;  // how many pages the lists before this one take
};

struct NewSequence {
  int32_t slot = 0;
  int32_t length = 0;
  int32_t oldest = 0;
  float threshold = 0;
  int32_t pages = 0;                  // that all its lists take; so many are free
  const ListStart* starts = nullptr;  // [L * G], or null: R pages each, and nothing kept
};

// Gives the lists their pages and clears their keep bits. The content of the pages stays what it was.
cudaError_t create_sequence(const CacheState& cache, const NewSequence& sequence, cudaStream_t stream);
cudaError_t release_sequence(const CacheState& cache, int slot, cudaStream_t stream);
cudaError_t fork_sequence(const CacheState& cache, int slot, int copy, cudaStream_t stream);
// Takes back the last `tokens` tokens; those that come into the window again must be in the ring.
cudaError_t rewind_sequence(const CacheState& cache, int slot, int tokens, cudaStream_t stream);
// Adds to `*count` the pages of a sequence that others hold, too.
cudaError_t count_shared_pages(const CacheState& cache, int slot, int32_t* count, cudaStream_t stream);

// Copies what the tables of `from` hold of all sequences to the larger ones of `to`.
cudaError_t move_tables(const CacheState& from, const CacheState& to, cudaStream_t stream);

}  // namespace cuda
}  // namespace spkv
