#include "ops/predict_utility.h"

#include "cuda/common/launch.cuh"
#include "cuda/common/reduce.cuh"
#include "cuda/common/utility.cuh"
#include "cuda/context.h"

namespace spkv {
namespace cuda {
namespace {

constexpr int kWarps = 8, kWidth = 4;
constexpr int64_t kChunk = 2048;  // of the hidden vector, activated once for as many heads as there are warps

// A block to a token, a warp to a head.
template <typename H, typename W>
__global__ void __launch_bounds__(32 * kWarps)
    predict_utility_kernel(PredictUtilityParams params, bool aligned) {
  alignas(16) __shared__ float activated[kChunk];
  const int64_t t = blockIdx.x, heads = params.weight.shape[0], width = params.weight.shape[1];
  const int lane = threadIdx.x, warp = threadIdx.y, thread = warp * 32 + lane;
  const H* hidden = params.hidden.as<const H>() + t * params.hidden.stride[0];
  for (int64_t first = 0; first < heads; first += kWarps) {
    const int64_t g = first + warp;
    float sum = 0;
    for (int64_t start = 0; start < width; start += kChunk) {
      const int64_t n = width - start < kChunk ? width - start : kChunk;
      __syncthreads();  // the last chunk has been read
      for (int64_t i = thread; i < n; i += 32 * kWarps)
        activated[i] = silu(Convert<float, H>::apply(hidden[start + i]));
      __syncthreads();
      if (g >= heads) continue;
      const W* weight = params.weight.as<const W>() + g * params.weight.stride[0] + start;
      for_elements<kWidth>(n, aligned, [&](int64_t i, auto elements) {
        const auto a = load(activated + i, decltype(elements){true});
        const auto w = load_floats(weight + i, elements);
#pragma unroll
        for (int j = 0; j < static_cast<int>(sizeof a.at / sizeof a.at[0]); j++) sum += a.at[j] * w.at[j];
      });
    }
    sum = warp_reduce(sum, Sum());
    if (lane == 0 && g < heads) {
      const float z = bias_of(params.bias, g) + sum;
      params.out.as<float>()[t * params.out.stride[0] + g] =
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
  shape.grid = dim3(static_cast<unsigned>(params.out.shape[0]));
  shape.block = dim3(32, kWarps);
  const auto kernel = params.hidden.dtype == DType::kBF16 ? kernel_for<uint16_t>(params.weight.dtype)
                                                          : kernel_for<float>(params.weight.dtype);
  const bool aligned = starts_aligned(params.weight, kWidth);
  return check(launch(on.stream(), shape, kernel, params, aligned), "predict_utility");
}

}  // namespace cuda
}  // namespace spkv
