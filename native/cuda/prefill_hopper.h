// Prefill attention on the matrix instructions of Hopper: what prefill_attention runs there.
#pragma once

#include "cuda/prefill_chunk.cuh"

namespace spkv {
namespace cuda {

// Behind keep_kernel and pack_kernel. For compute capability 9.0 only.
cudaError_t prefill_hopper(const PrefillStep& step, int multiprocessors, cudaStream_t stream);

}  // namespace cuda
}  // namespace spkv
