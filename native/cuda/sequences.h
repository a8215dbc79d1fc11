// Sequences come and go: their rings are taken from the free pages, and all their pages go back there. These
// run between steps.
#pragma once

#include "cuda/cache_state.h"

#include <cuda_runtime_api.h>

namespace spkv {
namespace cuda {

// Marks all pages as free, and no failure.
cudaError_t reset_cache(const CacheState& cache, cudaStream_t stream);

// An empty sequence in `slot`. If the pool has too few pages for its rings, nothing changes but the status.
cudaError_t create_sequence(const CacheState& cache, int slot, float threshold, cudaStream_t stream);
cudaError_t release_sequence(const CacheState& cache, int slot, cudaStream_t stream);

}  // namespace cuda
}  // namespace spkv
