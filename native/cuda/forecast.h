// What sequences will take from the pool: see Cache::forecast.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/cache_state.h"

namespace spkv {
namespace cuda {

// pages [B, tokens] = the forecasts of the sequences slots [B], both on the device.
cudaError_t forecast_pages(const CacheState& cache, int32_t* pages, const int32_t* slots, int batch,
                           int tokens, cudaStream_t stream);

}  // namespace cuda
}  // namespace spkv
