// The CUDA device, as the addon sees it: a library of its own, opened at run time.
#pragma once

#include <memory>

#include "core/device.h"

namespace spkv {

struct CudaOptions {
  int ordinal = 0;
  // Products and attention in f32 throughout, instead of rounding activations to bf16 for the tensor cores
  // where weights or the cache are bf16.
  bool exact = false;
  // Takes for each kind of product the fastest of the algorithms that cuBLASLt proposes, timed when it is
  // first computed, instead of the first. Last bits of results then depend on which was the fastest.
  bool time_products = false;
};

// What the library exports, as `extern "C"`. The addon refuses a library with another version: both sides
// share the classes of core/.
struct CudaLibrary {
  const char* version;  // SPKV_CUDA_VERSION
  int (*device_count)(Status* status);
  // Null with a status: kDevice without a driver or device, or with a driver or GPU that is too old, or
  // without cuBLASLt; kOutOfMemory.
  Device* (*open)(const CudaOptions& options, Status* status);
};

// The builds define it: scripts/interface.mjs.
#if !defined(SPKV_CUDA_VERSION)
#define SPKV_CUDA_VERSION "unknown"
#endif

}  // namespace spkv

extern "C" __attribute__((visibility("default"))) const spkv::CudaLibrary* spkv_cuda_library();
