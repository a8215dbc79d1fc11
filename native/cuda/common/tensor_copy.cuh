// The instructions that move tiles between tensors and shared memory (compute capability 9.0).
#pragma once

#include "cuda/common/ptx.cuh"
#include "cuda/common/tensor_map.h"
#if defined(SPKV_EMULATED_CUDA)
#include <emulator/tensor_copy.h>
#else

namespace spkv {
namespace cuda {

// Tokens [token, token + rows) of one head: all panels, one after another. `token` may be anything.
__device__ __forceinline__ void tensor_copy(uint32_t to, const TensorMap* map, int token, int head,
                                            uint32_t barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%2, %3, %4, %5}], [%6];" ::"r"(to),
      "l"(map), "r"(0), "r"(token), "r"(0), "r"(head), "r"(barrier)
      : "memory");
#endif
}

// Adds f32 numbers in shared memory to those at `to`, in a group of this thread's. Addresses and sizes are
// multiples of 16 bytes.
__device__ __forceinline__ void bulk_add(float* to, uint32_t from, uint32_t bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(
                   __cvta_generic_to_global(to)),
               "r"(from), "r"(bytes)
               : "memory");
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#endif
}

// Returns when everything that this thread adds in bulk has been read from shared memory.
__device__ __forceinline__ void wait_for_bulk_reads() {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
#endif
}

}  // namespace cuda
}  // namespace spkv

#endif
