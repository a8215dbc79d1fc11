#include "ops/predict_utility.h"

#include "cuda/common/launch.cuh"
#include "cuda/common/reduce.cuh"
#include "cuda/common/utility.cuh"
#include "cuda/context.h"

namespace spkv {
namespace cuda {
namespace {

constexpr int kWarps = 8, kWidth = 4;
constexpr int kHeads = 8;  // at a time: their sums are in registers

// A warp to a token: it activates the hidden vector once for kHeads heads.
template <typename H, typename W>
__global__ void __launch_bounds__(32 * kWarps)
    predict_utility_kernel(PredictUtilityParams params, bool aligned) {
  const int64_t t = int64_t{blockIdx.x} * kWarps + threadIdx.y;
  if (t >= params.out.shape[0]) return;
  const int64_t heads = params.weight.shape[0], width = params.weight.shape[1];
  const H* hidden = params.hidden.as<const H>() + t * params.hidden.stride[0];
  for (int64_t first = 0; first < heads; first += kHeads) {
    const W* weights = params.weight.as<const W>() + first * params.weight.stride[0];
    const int count = static_cast<int>(heads - first < kHeads ? heads - first : kHeads);
    float sums[kHeads] = {};
    for_elements<kWidth>(width, aligned, [&](int64_t i, auto elements) {
      auto a = load_floats(hidden + i, elements);
      for (float& value : a.at) value = silu(value);
#pragma unroll
      for (int g = 0; g < kHeads; g++) {
        if (g >= count) break;
        const auto w = load_floats(weights + g * params.weight.stride[0] + i, elements);
#pragma unroll
        for (int j = 0; j < static_cast<int>(sizeof a.at / sizeof a.at[0]); j++) sums[g] += a.at[j] * w.at[j];
      }
    });
#pragma unroll
    for (int g = 0; g < kHeads; g++) {
      if (g >= count) break;
      const float z = bias_of(params.bias, first + g) + warp_reduce(sums[g], Sum());
      if (threadIdx.x == 0)
        params.out.as<float>()[t * params.out.stride[0] + first + g] =
            utility_of(z, params.form, params.alpha, params.threshold);
    }
  }
}

template <typename H>
auto kernel_for(DType weight) {
  return weight == DType::kBF16 ? predict_utility_kernel<H, uint16_t> : predict_utility_kernel<H, float>;
}

}  // namespace

Status predict_utility(const PredictUtilityParams& params, Execution& execution) {
  Context& on = context(execution);
  if (params.out.size() == 0) return Status();
  LaunchShape shape;
  shape.grid = dim3(blocks_for(params.out.shape[0], kWarps));
  shape.block = dim3(32, kWarps);
  const auto kernel = params.hidden.dtype == DType::kBF16 ? kernel_for<uint16_t>(params.weight.dtype)
                                                          : kernel_for<float>(params.weight.dtype);
  const bool aligned = starts_aligned(params.weight, kWidth) && starts_aligned(params.hidden, kWidth);
  return check(launch(on.stream(), shape, kernel, params, aligned), "predict_utility");
}

}  // namespace cuda
}  // namespace spkv
