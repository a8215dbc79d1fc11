#include "ops/optimizer.h"

#include <cmath>

#include "cuda/column_sums.h"
#include "cuda/common/elements.cuh"
#include "cuda/common/launch.cuh"
#include "cuda/common/reduce.cuh"
#include "cuda/operations.h"

namespace spkv {
namespace cuda {
namespace {

constexpr int kThreads = 256, kWidth = 4;
constexpr int64_t kPiece = kThreads * kWidth;  // elements that a block has at a time
constexpr int64_t kMostGroups = 1024;

// The factors of one step, the same for all elements.
struct Update {
  float keep, rate, root, epsilon, beta1, beta2;
};

// Block (i, r) updates a piece of row r, each thread kWidth elements of it.
__global__ void __launch_bounds__(kThreads) adam_w_kernel(AdamWParams params, Update by, bool aligned) {
  const float factor = *params.factor.as<const float>();
  if (!isfinite(factor)) return;
  const int64_t row = blockIdx.y, start = int64_t{blockIdx.x} * kPiece;
  const int64_t left = params.parameter.shape[1] - start, count = left < kPiece ? left : kPiece;
  float* parameter = params.parameter.as<float>() + row * params.parameter.stride[0] + start;
  float* momentum = params.momentum.as<float>() + row * params.momentum.stride[0] + start;
  float* variance = params.variance.as<float>() + row * params.variance.stride[0] + start;
  const float* gradient = params.gradient.as<const float>() + row * params.gradient.stride[0] + start;
  uint16_t* copy = params.copy ? params.copy.as<uint16_t>() + row * params.copy.stride[0] + start : nullptr;
  for_elements<kWidth>(count, aligned, [&](int64_t i, auto elements) {
    auto p = load(parameter + i, elements), m = load(momentum + i, elements),
         v = load(variance + i, elements);
    const auto g = load(gradient + i, elements);
#pragma unroll
    for (int j = 0; j < static_cast<int>(sizeof p.at / sizeof p.at[0]); j++) {
      const float d = factor * g.at[j];
      m.at[j] = by.beta1 * m.at[j] + (1 - by.beta1) * d;
      v.at[j] = by.beta2 * v.at[j] + (1 - by.beta2) * d * d;
      p.at[j] = by.keep * p.at[j] - by.rate * m.at[j] / (sqrtf(v.at[j]) * by.root + by.epsilon);
    }
    store(parameter + i, p, elements);
    store(momentum + i, m, elements);
    store(variance + i, v, elements);
    if (copy) store(copy + i, convert<uint16_t>(p), elements);
  });
}

// Block (i, r) sums the squares of pieces i, i + gridDim.x, ... of row r.
__global__ void __launch_bounds__(kThreads) squares_kernel(View view, bool aligned, float* partial) {
  const float* x = view.as<const float>() + blockIdx.y * view.stride[0];
  const int64_t n = view.shape[1];
  float sum = 0;
  for (int64_t start = blockIdx.x * kPiece; start < n; start += gridDim.x * kPiece) {
    for_elements<kWidth>(n - start < kPiece ? n - start : kPiece, aligned, [&](int64_t i, auto elements) {
      for (float value : load(x + start + i, elements).at) sum += value * value;
    });
  }
  sum = block_reduce(sum, 0.0f, Sum());
  if (threadIdx.x == 0) partial[int64_t{blockIdx.y} * gridDim.x + blockIdx.x] = sum;
}

// Block r adds up the groups of row r.
__global__ void __launch_bounds__(kThreads)
    add_squares_kernel(View out, const float* partial, int64_t groups) {
  const int64_t row = blockIdx.x;
  double sum = 0;
  for (int64_t i = threadIdx.x; i < groups; i += kThreads)
    sum += static_cast<double>(partial[row * groups + i]);
  sum = block_reduce(sum, 0.0, Sum());
  if (threadIdx.x != 0) return;
  float* to = out.as<float>() + row * out.stride[0];
  *to = static_cast<float>(static_cast<double>(*to) + sum);
}

__global__ void __launch_bounds__(kThreads) clip_factor_kernel(ClipFactorParams params) {
  const View& squared = params.squared_norms;
  double total = 0;
  for (int64_t n = threadIdx.x; n < squared.shape[0]; n += kThreads)
    total += static_cast<double>(squared.as<const float>()[n]);
  total = block_reduce(total, 0.0, Sum());
  if (threadIdx.x != 0) return;
  const double norm = params.scale * sqrt(total);
  const double factor = norm > params.limit ? params.scale * params.limit / norm : params.scale;
  *params.norm.as<float>() = static_cast<float>(norm);
  *params.factor.as<float>() = isfinite(norm) ? static_cast<float>(factor) : NAN;
}

unsigned rows_of(const View& view) { return static_cast<unsigned>(view.shape[0]); }

}  // namespace

Status adam_w(const AdamWParams& params, Execution& execution) {
  Context& on = context(execution);
  if (params.parameter.size() == 0) return Status();
  const double step = static_cast<double>(params.step);
  const double first = 1 - std::pow(static_cast<double>(params.beta1), step),
               second = 1 - std::pow(static_cast<double>(params.beta2), step);
  const Update by = {1 - params.learning_rate * params.weight_decay,
                     static_cast<float>(params.learning_rate / first),
                     static_cast<float>(1 / std::sqrt(second)),
                     params.epsilon,
                     params.beta1,
                     params.beta2};
  bool aligned = !params.copy || starts_aligned(params.copy, kWidth);
  for (const View* view : {&params.parameter, &params.momentum, &params.variance, &params.gradient})
    aligned = aligned && starts_aligned(*view, kWidth);
  LaunchShape shape;
  shape.grid = dim3(blocks_for(params.parameter.shape[1], kPiece), rows_of(params.parameter));
  shape.block = dim3(kThreads);
  return check(launch(on.stream(), shape, adam_w_kernel, params, by, aligned), "adam_w");
}

Status squared_norm(const SquaredNormParams& params, Execution& execution) {
  Context& on = context(execution);
  if (params.x.size() == 0) return Status();
  const int64_t pieces = blocks_for(params.x.shape[1], kPiece),
                groups = pieces < kMostGroups ? pieces : kMostGroups;
  Status status;
  float* partial = partial_sums(params.x.shape[0], groups, on, &status);
  if (!partial) return status;
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(groups), rows_of(params.x));
  shape.block = dim3(kThreads);
  SPKV_RETURN_IF_ERROR(
      check(launch(on.stream(), shape, squares_kernel, params.x, starts_aligned(params.x, kWidth), partial),
            "squared_norm"));
  shape.grid = dim3(rows_of(params.x));
  return check(launch(on.stream(), shape, add_squares_kernel, params.out, partial, groups), "squared_norm");
}

Status clip_factor(const ClipFactorParams& params, Execution& execution) {
  LaunchShape shape;
  shape.block = dim3(kThreads);
  return check(launch(context(execution).stream(), shape, clip_factor_kernel, params), "clip_factor");
}

}  // namespace cuda
}  // namespace spkv
