// Files as memory: weights are read by the kernels straight from the page cache.
#pragma once

#include <cstdint>
#include <memory>

#include "core/device.h"
#include "core/status.h"

namespace spkv {

// `bytes` of the file from `offset`, read-only. Where the offset is not a multiple of `alignment` the bytes
// are copied instead. Null with a status when the file is missing, shorter than that, or cannot be mapped.
std::shared_ptr<Storage> map_file(const char* path, int64_t offset, int64_t bytes, int64_t alignment,
                                  Status* status);

}  // namespace spkv
