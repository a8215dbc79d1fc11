// Rings of buffers between those who fill and those who use them, each with a pair of barriers, full and
// empty.
#pragma once

#include <cstdint>

namespace spkv {
namespace cuda {

// A place in a ring and the parity of its phase.
template <int kSize>
struct RingPosition {
  int index = 0;
  uint32_t phase = 0;

  __device__ __forceinline__ void advance() {
    if (++index == kSize) {
      index = 0;
      phase ^= 1;
    }
  }
};

}  // namespace cuda
}  // namespace spkv
