// Memory for the intermediate results of one operation, kept from call to call.
#pragma once

#include <cstdint>

#include "core/status.h"

namespace spkv {
namespace cpu {

// At least `bytes` bytes, aligned to a cache line and valid until the calling thread asks again; null when
// there is no memory. Not inline: see cpu/isa.h.
void* scratch(int64_t bytes);

}  // namespace cpu
}  // namespace spkv
