// The CUDA device, as the addon sees it: a library of its own, opened at run time.
#pragma once

#include <memory>

#include "core/device.h"

namespace spkv {

// What the library exports, as `extern "C"`. The addon refuses a library with another version: both sides
// share the classes of core/.
struct CudaLibrary {
  const char* version;  // SPKV_CUDA_VERSION
  int (*device_count)(Status* status);
  // Device `ordinal`; null with a status: kDevice without a driver or device, or with a driver or GPU that is
  // too old, or without cuBLASLt; kOutOfMemory.
  Device* (*open)(int ordinal, Status* status);
};

// The builds define it: scripts/interface.mjs.
#if !defined(SPKV_CUDA_VERSION)
#define SPKV_CUDA_VERSION "unknown"
#endif

}  // namespace spkv

extern "C" __attribute__((visibility("default"))) const spkv::CudaLibrary* spkv_cuda_library();
