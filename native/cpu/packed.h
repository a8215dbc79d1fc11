// The packed weight layout of the CPU: panels of 64 outputs, so that a product streams them front to back.
//
//   f32:  [N/64][K][64]        N padded with zeros to a multiple of 64
//   bf16: [N/64][K/2][64][2]   and K to a multiple of 2
#pragma once

#include <cstdint>

#include "core/view.h"

namespace spkv {
namespace cpu {

constexpr int64_t kPanel = 64;

int64_t packed_bytes(DType dtype, int64_t n, int64_t k);

}  // namespace cpu
}  // namespace spkv
