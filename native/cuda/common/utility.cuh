// The functions of the utility predictor, see ops/predict_utility.h.
#pragma once

#include "cuda/common/elements.cuh"

namespace spkv {
namespace cuda {

__device__ __forceinline__ float silu(float z) { return z / (1.0f + expf(-z)); }

// sigmoid(z) or logsigmoid(z).
__device__ __forceinline__ float utility_of(float z, bool log) {
  return log ? fminf(z, 0.0f) - log1pf(expf(-fabsf(z))) : 1.0f / (1.0f + expf(-z));
}

__device__ __forceinline__ float bias_of(const View& bias, int64_t g) {
  return bias.dtype == DType::kBF16 ? Convert<float, uint16_t>::apply(bias.as<const uint16_t>()[g])
                                    : bias.as<const float>()[g];
}

}  // namespace cuda
}  // namespace spkv
