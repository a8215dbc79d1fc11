// The CUDA library, opened at run time: the addon itself is built and loaded without CUDA.
#pragma once

#include "cuda/device.h"

namespace spkv {
namespace binding {

// Opens the library at `path`, which then stays open until the process ends. Null with kDevice where it
// cannot be opened or does not fit this addon.
const CudaLibrary* open_cuda_library(const char* path, Status* status);

}  // namespace binding
}  // namespace spkv
