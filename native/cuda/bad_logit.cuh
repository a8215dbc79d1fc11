// How kernels report a logit that is not finite: the fault's index is the row, its value the column and one
// of three kinds.
#pragma once

#include <cmath>

#include "core/step_checks.h"
#include "cuda/common/fault.cuh"

namespace spkv {
namespace cuda {

constexpr uint32_t kNan = 0, kPositive = 1, kNegative = 2;
constexpr uint32_t kGoodLogits = 0xffffffffu;  // above what any bad one gives

__device__ __forceinline__ bool is_finite(float x) { return x - x == 0; }

__device__ __forceinline__ uint32_t bad_logit(uint32_t column, float x) {
  return column << 2 | (x > 0 ? kPositive : x < 0 ? kNegative : kNan);
}

inline Status describe_logit(int64_t row, uint32_t value) {
  const uint32_t kind = value & 3;
  return logit_not_finite(row, value >> 2, kind == kNan ? NAN : kind == kPositive ? INFINITY : -INFINITY);
}

}  // namespace cuda
}  // namespace spkv
