// The packed layout of a weight [N, K]: panels of kPanelColumns output columns, N padded with zeros. Within a
// panel k ascends, and the columns of one k lie side by side, as the panel product reads them
// (microkernel.h):
//
//   f32:   [N / 64][K][64]
//   bf16:  [N / 64][K / 2][64][2]   pairs of k side by side, K padded with a zero to even
//
// Either way a panel is a matrix of 32-bit units: packed_units(dtype, K) rows of kPanelColumns.
#pragma once

#include <cstdint>

#include "core/view.h"

namespace spkv {
namespace cpu {

constexpr int64_t kPanelColumns = 64;

SPKV_INLINE int64_t packed_units(DType dtype, int64_t k) { return dtype == DType::kBF16 ? (k + 1) / 2 : k; }

// Bytes of an [n, k] weight in the packed layout.
int64_t packed_bytes(DType dtype, int64_t n, int64_t k);

}  // namespace cpu
}  // namespace spkv
