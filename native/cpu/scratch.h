// Memory for the intermediate results of one operation, kept from call to call.
#pragma once

#include <cstdint>

#include "core/status.h"
#include "core/view.h"

namespace spkv {
namespace cpu {

// At least `bytes` bytes, aligned to a cache line and valid until the calling thread asks again; null when
// there is no memory. Not inline: see cpu/isa.h.
void* scratch(int64_t bytes);
// The error when it is null.
Status no_scratch(int64_t bytes);

// Hands out pieces of one scratch buffer: first with a null base to learn the size, then for real.
struct Carver {
  char* base;
  int64_t used = 0;

  template <typename T>
  SPKV_INLINE T* take(int64_t count) {
    T* piece = base ? reinterpret_cast<T*>(base + used) : nullptr;
    used += (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
    return piece;
  }
};

}  // namespace cpu
}  // namespace spkv
