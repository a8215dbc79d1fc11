#include "cuda/column_sums.h"
#include "cuda/common/elements.cuh"
#include "cuda/common/launch.cuh"
#include "cuda/operations.h"

namespace spkv {
namespace cuda {
namespace {

constexpr int kThreads = 128, kHeads = 8;
constexpr unsigned kMostElements = 128;  // of the hidden vector, in the x dimension of a block
constexpr int64_t kLeastTokens = 32, kMostGroups = 1024;

// From log u to the gradient of z, in place: sigmoid(-z) = 1 - u = -expm1(log u), good where u is close to 1.
__global__ void __launch_bounds__(kThreads) logit_gradient_kernel(View dz, View d_log_utility) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x, heads = dz.shape[1];
  if (i >= dz.shape[0] * heads) return;
  float* at = dz.as<float>() + i;
  *at = d_log_utility.as<const float>()[i / heads * d_log_utility.stride[0] + i % heads] * -expm1f(*at);
}

// Block (i, j, k) goes through the tokens [j * tokens, (j + 1) * tokens), the y dimension taking turns, with
// a thread per element of the hidden vector: what they add to the weights of heads [8 k, 8 k + 8), and, where
// k is 0, their d_hidden.
template <typename H, typename W>
__global__ void __launch_bounds__(kThreads)
    predict_utility_backward_kernel(PredictUtilityBackwardParams params, const float* dz, int64_t tokens,
                                    float* partial) {
  __shared__ float lanes[kHeads][kThreads];
  const int64_t width = params.weight.shape[1], p = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const int heads = static_cast<int>(params.weight.shape[0]), first = static_cast<int>(blockIdx.z) * kHeads;
  const bool there = p < width;
  const int64_t start = int64_t{blockIdx.y} * tokens, all = params.hidden.shape[0];
  const int64_t end = start + tokens < all ? start + tokens : all;
  const auto weight = [&](int g) {
    return Convert<float, W>::apply(params.weight.as<const W>()[g * params.weight.stride[0] + p]);
  };
  float sums[kHeads] = {}, weights[kHeads] = {};
#pragma unroll
  for (int j = 0; j < kHeads; j++)
    if (there && first + j < heads) weights[j] = weight(first + j);
  for (int64_t t = start + threadIdx.y; t < end && there; t += blockDim.y) {
    const float x = Convert<float, H>::apply(params.hidden.as<const H>()[t * params.hidden.stride[0] + p]);
    const float s = 1.0f / (1.0f + expf(-x));
    float above = 0;
#pragma unroll
    for (int j = 0; j < kHeads; j++) {
      if (first + j >= heads) break;
      const float d = dz[t * heads + first + j];
      sums[j] += d * x * s;
      above += d * weights[j];
    }
    if (first > 0) continue;
    for (int g = kHeads; g < heads; g++) above += dz[t * heads + g] * weight(g);
    params.d_hidden.as<H>()[t * params.d_hidden.stride[0] + p] =
        Convert<H, float>::apply(above * s * (1.0f + x * (1.0f - s)));
  }
#pragma unroll
  for (int j = 0; j < kHeads; j++) lanes[j][threadIdx.y * blockDim.x + threadIdx.x] = sums[j];
  __syncthreads();
  if (threadIdx.y != 0 || !there) return;
  for (int j = 0; j < kHeads && first + j < heads; j++) {
    float sum = 0;
    for (unsigned y = 0; y < blockDim.y; y++) sum += lanes[j][y * blockDim.x + threadIdx.x];
    partial[(int64_t{blockIdx.y} * heads + first + j) * width + p] = sum;
  }
}

template <typename H>
auto kernel_for(DType weight) {
  return weight == DType::kBF16 ? predict_utility_backward_kernel<H, uint16_t>
                                : predict_utility_backward_kernel<H, float>;
}

}  // namespace

Status predict_utility_backward(const PredictUtilityBackwardParams& params, Execution& execution) {
  Context& on = context(execution);
  const int64_t all = params.hidden.shape[0], heads = params.weight.shape[0], width = params.weight.shape[1];
  if (all == 0 || heads == 0) return Status();
  Status status;
  PredictUtilityParams forward;
  forward.out.data = on.scratch(Scratch::kUtilities, all * heads * 4, &status);
  if (!forward.out.data) return status;
  forward.out.rank = 2;
  forward.out.shape[0] = all, forward.out.shape[1] = heads;
  forward.out.stride[0] = heads, forward.out.stride[1] = 1;
  forward.hidden = params.hidden, forward.weight = params.weight, forward.bias = params.bias;
  forward.form = UtilityForm::kLogUtility;
  SPKV_RETURN_IF_ERROR(predict_utility(forward, execution));
  LaunchShape shape;
  shape.grid = dim3(blocks_for(all * heads, kThreads));
  shape.block = dim3(kThreads);
  SPKV_RETURN_IF_ERROR(
      check(launch(on.stream(), shape, logit_gradient_kernel, forward.out, params.d_log_utility),
            "predict_utility_backward"));
  SPKV_RETURN_IF_ERROR(add_column_sums(params.d_bias, forward.out, on));
  if (width == 0) return Status();

  const int64_t least = (all + kMostGroups - 1) / kMostGroups,
                tokens = least > kLeastTokens ? least : kLeastTokens;
  const int64_t groups = (all + tokens - 1) / tokens;
  float* partial = partial_sums(groups, heads * width, on, &status);
  if (!partial) return status;
  const unsigned elements = threads_for(width, kMostElements);
  shape.grid = dim3(blocks_for(width, elements), static_cast<unsigned>(groups), blocks_for(heads, kHeads));
  shape.block = dim3(elements, kThreads / elements);
  const auto kernel = params.hidden.dtype == DType::kBF16 ? kernel_for<uint16_t>(params.weight.dtype)
                                                          : kernel_for<float>(params.weight.dtype);
  SPKV_RETURN_IF_ERROR(
      check(launch(on.stream(), shape, kernel, params, forward.out.as<const float>(), tokens, partial),
            "predict_utility_backward"));
  return add_partial_sums(params.d_weight, partial, groups, on);
}

}  // namespace cuda
}  // namespace spkv
