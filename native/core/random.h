// Random numbers that are a function of (seed, position) alone, the same on every device and in any order.
//
// Philox4x32-10: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
#pragma once

#include <cstdint>

#include "core/view.h"

namespace spkv {

struct Philox {
  uint32_t counter[4];
  uint32_t key[2];

  // Replaces the counter by its ten rounds.
  SPKV_INLINE void mix() {
    for (int round = 0; round < 10; round++) {
      const uint64_t a = uint64_t{0xD2511F53} * counter[0], b = uint64_t{0xCD9E8D57} * counter[2];
      const uint32_t c1 = counter[1], c3 = counter[3];
      counter[0] = static_cast<uint32_t>(b >> 32) ^ c1 ^ key[0];
      counter[1] = static_cast<uint32_t>(b);
      counter[2] = static_cast<uint32_t>(a >> 32) ^ c3 ^ key[1];
      counter[3] = static_cast<uint32_t>(a);
      key[0] += 0x9E3779B9u;
      key[1] += 0xBB67AE85u;
    }
  }
};

// Uniform in [0, 1), in steps of 2^-53.
SPKV_INLINE double uniform(uint32_t seed_low, uint32_t seed_high, uint32_t position) {
  Philox philox = {{position, 0, 0, 0}, {seed_low, seed_high}};
  philox.mix();
  const uint64_t bits = (uint64_t{philox.counter[0]} << 21) ^ (philox.counter[1] >> 11);
  return static_cast<double>(bits) * 0x1p-53;
}

}  // namespace spkv
