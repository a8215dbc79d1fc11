// The functions of the utility predictor, see ops/predict_utility.h.
#pragma once

#include "cuda/common/elements.cuh"
#include "ops/predict_utility.h"

namespace spkv {
namespace cuda {

__device__ __forceinline__ float silu(float z) { return z / (1.0f + expf(-z)); }
__device__ __forceinline__ float sigmoid(float z) { return 1.0f / (1.0f + expf(-z)); }
__device__ __forceinline__ float log_sigmoid(float z) { return fminf(z, 0.0f) - log1pf(expf(-fabsf(z))); }

// log((1 - alpha) u + alpha [u >= threshold]), with all digits near u = 0 and near u = 1.
__device__ __forceinline__ float annealed(float z, float alpha, float threshold) {
  const float u = sigmoid(z);
  if (!(u >= threshold)) return log1pf(-alpha) + log_sigmoid(z);
  if (alpha == 0.0f) return log_sigmoid(z);
  const float missing = (1.0f - alpha) * sigmoid(-z);  // to 1
  return missing > 0.5f ? logf(alpha + (1.0f - alpha) * u) : log1pf(-missing);
}

__device__ __forceinline__ float utility_of(float z, UtilityForm form, float alpha = 0, float threshold = 0) {
  switch (form) {
    case UtilityForm::kUtility:
      return sigmoid(z);
    case UtilityForm::kLogUtility:
      return log_sigmoid(z);
    case UtilityForm::kAnnealed:
      break;
  }
  return annealed(z, alpha, threshold);
}

__device__ __forceinline__ float bias_of(const View& bias, int64_t g) {
  return bias.dtype == DType::kBF16 ? Convert<float, uint16_t>::apply(bias.as<const uint16_t>()[g])
                                    : bias.as<const float>()[g];
}

}  // namespace cuda
}  // namespace spkv
