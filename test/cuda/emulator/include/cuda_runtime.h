// Stands in for CUDA's header of this name under the emulator: what device code is written with.
#pragma once

#include <climits>
#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>

#include <cuda_runtime_api.h>

// Code for an architecture is chosen by the host, from the compute capability that it is told.
#define __CUDA_ARCH__ 900
#define __CUDA_ARCH_FEAT_SM90_ALL

#define __global__
#define __shared__ static  // blocks run one after another
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) __attribute__((aligned(bytes)))

#include "emulator/intrinsics.h"

namespace spkv_emulator {

// What the runtime runs, now or when a graph is launched. `parameters` is for messages.
cudaError_t launch_kernel(const cudaLaunchConfig_t& config, const void* kernel, const char* parameters,
                          std::function<void()> thread);

}  // namespace spkv_emulator

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  std::tuple<std::decay_t<Parameters>...> copies(std::forward<Arguments>(arguments)...);
  return spkv_emulator::launch_kernel(*config, reinterpret_cast<const void*>(kernel), __PRETTY_FUNCTION__,
                                      [kernel, copies] { std::apply(kernel, copies); });
}

template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute attribute, int value) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value);
}

template <typename Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel* kernel, int block_threads,
                                                          size_t shared_bytes) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, reinterpret_cast<const void*>(kernel),
                                                       block_threads, shared_bytes);
}

template <typename T>
cudaError_t cudaMalloc(T** pointer, size_t bytes) {
  return cudaMalloc(reinterpret_cast<void**>(pointer), bytes);
}
template <typename T>
cudaError_t cudaMallocAsync(T** pointer, size_t bytes, cudaStream_t stream) {
  return cudaMallocAsync(reinterpret_cast<void**>(pointer), bytes, stream);
}
template <typename T>
cudaError_t cudaMallocHost(T** pointer, size_t bytes) {
  return cudaMallocHost(reinterpret_cast<void**>(pointer), bytes);
}
