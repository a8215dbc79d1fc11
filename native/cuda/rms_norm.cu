#include "ops/rms_norm.h"

#include "cuda/common/elements.cuh"
#include "cuda/common/launch.cuh"
#include "cuda/common/ptx.cuh"
#include "cuda/common/reduce.cuh"
#include "cuda/context.h"

namespace spkv {
namespace cuda {
namespace {

constexpr int kWidth = 4;
constexpr int kPacks = 2;  // of kWidth elements, a thread's of a row that is read once
constexpr unsigned kMostThreads = 512, kWarpsPerBlock = 8;

// A row to the x dimension of a block: a warp where the rows are short, then several to a block. A thread
// keeps its elements in registers; of rows that are long, or not aligned, it reads them twice.
template <bool kOnce, typename Out, typename X, typename W>
__global__ void __launch_bounds__(kMostThreads)
    rms_norm_kernel(RmsNormParams params, int64_t rows, bool aligned) {
  allow_next_launch();
  wait_for_previous_launch();
  const View &out = params.out, &x = params.x;
  const int64_t row = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  if (row >= rows) return;
  const bool heads = out.rank == 3;
  const int64_t count = heads ? out.shape[1] : 1, t = row / count, h = row % count;
  const int64_t columns = heads ? out.shape[2] : out.shape[1];
  Out* to = out.as<Out>() + t * out.stride[0] + (heads ? h * out.stride[1] : 0);
  const X* from = x.as<const X>() + t * x.stride[0] + (heads ? h * x.stride[1] : 0);
  const W* weight = params.weight.as<const W>();
  const auto scale_of = [&](float squares) {
    return 1.0f / sqrtf(block_reduce(squares, 0.0f, Sum()) / static_cast<float>(columns) + params.epsilon);
  };
  const auto finish = [&](int64_t i, auto v, float scale, auto elements) {
    const auto w = load_floats(weight + i, elements);
#pragma unroll
    for (int j = 0; j < static_cast<int>(sizeof v.at / sizeof v.at[0]); j++)
      v.at[j] = v.at[j] * scale * w.at[j];
    store(to + i, convert<Out>(v), elements);
  };

  float squares = 0;
  if constexpr (kOnce) {
    constexpr Elements<kWidth> kAligned = {true};
    Pack<float, kWidth> v[kPacks] = {};
    const auto start_of = [&](int p) { return (int64_t{p} * blockDim.x + threadIdx.x) * kWidth; };
#pragma unroll
    for (int p = 0; p < kPacks; p++)
      if (start_of(p) < columns) v[p] = load_floats(from + start_of(p), kAligned);
#pragma unroll
    for (int p = 0; p < kPacks; p++)
      for (float value : v[p].at) squares += value * value;
    const float scale = scale_of(squares);
#pragma unroll
    for (int p = 0; p < kPacks; p++)
      if (start_of(p) < columns) finish(start_of(p), v[p], scale, kAligned);
  } else {
    for_elements<kWidth>(columns, aligned, [&](int64_t i, auto elements) {
      for (float v : load_floats(from + i, elements).at) squares += v * v;
    });
    const float scale = scale_of(squares);
    for_elements<kWidth>(columns, aligned, [&](int64_t i, auto elements) {
      finish(i, load_floats(from + i, elements), scale, elements);
    });
  }
}

template <bool kOnce, typename Out, typename X>
auto kernel_for(DType weight) {
  return weight == DType::kBF16 ? rms_norm_kernel<kOnce, Out, X, uint16_t>
                                : rms_norm_kernel<kOnce, Out, X, float>;
}

template <bool kOnce, typename Out>
auto kernel_for(DType x, DType weight) {
  return x == DType::kBF16 ? kernel_for<kOnce, Out, uint16_t>(weight) : kernel_for<kOnce, Out, float>(weight);
}

template <bool kOnce>
auto kernel_for(const RmsNormParams& params) {
  const DType x = params.x.dtype, weight = params.weight.dtype;
  return params.out.dtype == DType::kBF16 ? kernel_for<kOnce, uint16_t>(x, weight)
                                          : kernel_for<kOnce, float>(x, weight);
}

}  // namespace

Status rms_norm(const RmsNormParams& params, Execution& execution) {
  Context& on = context(execution);
  if (params.out.size() == 0) return Status();
  const int64_t columns = params.out.shape[params.out.rank - 1], rows = params.out.size() / columns;
  const bool aligned = starts_aligned(params.out, kWidth) && starts_aligned(params.x, kWidth) &&
                       starts_aligned(params.weight, kWidth);
  const bool short_row = columns % kWidth == 0 && columns <= int64_t{kMostThreads} * kPacks * kWidth;
  const unsigned threads =
      threads_for(blocks_for(columns, short_row ? kPacks * kWidth : kWidth), kMostThreads);
  LaunchShape shape;
  shape.block = dim3(threads, threads == 32 ? kWarpsPerBlock : 1);
  shape.grid = dim3(blocks_for(rows, shape.block.y));
  shape.early = on.launches_overlap();
  const auto kernel = short_row && aligned ? kernel_for<true>(params) : kernel_for<false>(params);
  return check(launch(on.stream(), shape, kernel, params, rows, aligned), "rms_norm");
}

}  // namespace cuda
}  // namespace spkv
