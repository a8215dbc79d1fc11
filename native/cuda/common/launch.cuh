// Starting kernels. Everything goes through `launch`, so that the same sources also run under the emulator of
// test/cuda/emulator, which knows cudaLaunchKernelEx but not the triple brackets.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace spkv {
namespace cuda {

struct LaunchShape {
  dim3 grid = dim3(1);
  dim3 block = dim3(1);
  int shared_bytes = 0;  // dynamic shared memory
  // The blocks may start before the launch ahead is complete, or even those before it; the kernel calls
  // wait_for_previous_launch, in every block, before it touches what launches change.
  bool early = false;
};

template <typename... Parameters, typename... Arguments>
cudaError_t launch(cudaStream_t stream, const LaunchShape& shape, void (*kernel)(Parameters...),
                   Arguments&&... arguments) {
  if (shape.shared_bytes > 48 * 1024) {
    cudaError_t error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                             cudaFuncAttributeMaxDynamicSharedMemorySize, shape.shared_bytes);
    if (error != cudaSuccess) return error;
  }
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = static_cast<size_t>(shape.shared_bytes);
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = shape.early ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Arguments&&>(arguments)...);
}

inline unsigned blocks_for(int64_t items, int64_t per_block) {
  return static_cast<unsigned>((items + per_block - 1) / per_block);
}

// The block's dynamic shared memory; 16-byte aligned.
#if defined(SPKV_EMULATED_CUDA)
using spkv_emulator::dynamic_shared;
#elif defined(__CUDACC__)
__device__ __forceinline__ uint8_t* dynamic_shared() {
  extern __shared__ __align__(16) uint8_t spkv_dynamic_shared[];
  return spkv_dynamic_shared;
}
#endif

}  // namespace cuda
}  // namespace spkv
