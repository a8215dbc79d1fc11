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
constexpr unsigned kMostThreads = 512, kWarpsPerBlock = 4;

// A row to the x dimension of a block: a warp where the rows are short, then several to a block.
template <typename Out, typename X, typename W>
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

  float squares = 0;
  for_elements<kWidth>(columns, aligned, [&](int64_t i, auto elements) {
    for (float v : load_floats(from + i, elements).at) squares += v * v;
  });
  squares = block_reduce(squares, 0.0f, Sum());
  const float scale = 1.0f / sqrtf(squares / static_cast<float>(columns) + params.epsilon);
  for_elements<kWidth>(columns, aligned, [&](int64_t i, auto elements) {
    auto v = load_floats(from + i, elements);
    const auto w = load_floats(weight + i, elements);
#pragma unroll
    for (int j = 0; j < static_cast<int>(sizeof v.at / sizeof v.at[0]); j++)
      v.at[j] = v.at[j] * scale * w.at[j];
    store(to + i, convert<Out>(v), elements);
  });
}

template <typename Out, typename X>
auto kernel_for(DType weight) {
  return weight == DType::kBF16 ? rms_norm_kernel<Out, X, uint16_t> : rms_norm_kernel<Out, X, float>;
}

template <typename Out>
auto kernel_for(DType x, DType weight) {
  return x == DType::kBF16 ? kernel_for<Out, uint16_t>(weight) : kernel_for<Out, float>(weight);
}

}  // namespace

Status rms_norm(const RmsNormParams& params, Execution& execution) {
  Context& on = context(execution);
  if (params.out.size() == 0) return Status();
  const int64_t columns = params.out.shape[params.out.rank - 1], rows = params.out.size() / columns;
  const bool aligned = starts_aligned(params.out, kWidth) && starts_aligned(params.x, kWidth) &&
                       starts_aligned(params.weight, kWidth);
  const unsigned threads = threads_for(blocks_for(columns, kWidth), kMostThreads);
  LaunchShape shape;
  shape.block = dim3(threads, threads == 32 ? kWarpsPerBlock : 1);
  shape.grid = dim3(blocks_for(rows, shape.block.y));
  shape.early = on.launches_overlap();
  const DType x = params.x.dtype, weight = params.weight.dtype;
  const auto kernel =
      params.out.dtype == DType::kBF16 ? kernel_for<uint16_t>(x, weight) : kernel_for<float>(x, weight);
  return check(launch(on.stream(), shape, kernel, params, rows, aligned), "rms_norm");
}

}  // namespace cuda
}  // namespace spkv
