#include "ops/rms_norm.h"

#include "cuda/common/elements.cuh"
#include "cuda/common/launch.cuh"
#include "cuda/common/ptx.cuh"
#include "cuda/common/reduce.cuh"
#include "cuda/context.h"
#include "cuda/norm_rows.cuh"

namespace spkv {
namespace cuda {
namespace {

// A thread keeps its elements in registers; of rows that are long, or not aligned, it reads them twice.
template <bool kOnce, typename Out, typename X, typename W>
__global__ void __launch_bounds__(kMostNormThreads)
    rms_norm_kernel(RmsNormParams params, int64_t rows, bool aligned) {
  allow_next_launch();
  wait_for_previous_launch();
  const int64_t row = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  if (row >= rows) return;
  const NormRows at(params.out);
  const int64_t columns = at.columns;
  Out* to = params.out.as<Out>() + at.start(params.out, row);
  const X* from = params.x.as<const X>() + at.start(params.x, row);
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
    constexpr Elements<kNormWidth> kAligned = {true};
    Pack<float, kNormWidth> v[kNormPacks] = {};
    for_packs(columns, [&](int p, int64_t i) { v[p] = load_floats(from + i, kAligned); });
    for (const auto& pack : v)
      for (float value : pack.at) squares += value * value;
    const float scale = scale_of(squares);
    for_packs(columns, [&](int p, int64_t i) { finish(i, v[p], scale, kAligned); });
  } else {
    for_elements<kNormWidth>(columns, aligned, [&](int64_t i, auto elements) {
      for (float v : load_floats(from + i, elements).at) squares += v * v;
    });
    const float scale = scale_of(squares);
    for_elements<kNormWidth>(columns, aligned, [&](int64_t i, auto elements) {
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
  const bool aligned = starts_aligned(params.out, kNormWidth) && starts_aligned(params.x, kNormWidth) &&
                       starts_aligned(params.weight, kNormWidth);
  const NormBlock block(columns);
  LaunchShape shape;
  shape.block = block.threads;
  shape.grid = dim3(blocks_for(rows, shape.block.y));
  shape.early = on.launches_overlap();
  const auto kernel = block.short_row && aligned ? kernel_for<true>(params) : kernel_for<false>(params);
  return check(launch(on.stream(), shape, kernel, params, rows, aligned), "rms_norm");
}

}  // namespace cuda
}  // namespace spkv
