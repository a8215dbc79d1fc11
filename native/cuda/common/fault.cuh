// What goes wrong on the device. A kernel that meets bad data says so here and leaves what it guards
// unchanged; the host finds out when it waits for the stream. Until then, kernels that change state
// (insert, sample, record_prompt) do nothing: they ask `faulty` first.
//
//   site      which check of which operation, a number given out by Context::fault_site
//   index     where: an element, a row; the least one wins among the threads of a kernel (24 bits)
//   value     what was found there (32 bits)
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace spkv {
namespace cuda {

using Fault = unsigned long long;  // site << 56 | index << 32 | value
constexpr Fault kNoFault = ~0ull;

#if defined(__CUDACC__) || defined(SPKV_EMULATED_CUDA)
__device__ __forceinline__ bool faulty(const Fault* fault) {
  return *static_cast<const volatile Fault*>(fault) != kNoFault;
}

__device__ __forceinline__ void raise_fault(Fault* fault, int site, int64_t index, uint32_t value) {
  Fault where = static_cast<Fault>(index < 0xffffff ? index : 0xffffff);
  atomicMin(fault, static_cast<Fault>(site) << 56 | where << 32 | value);
}
#endif

}  // namespace cuda
}  // namespace spkv
