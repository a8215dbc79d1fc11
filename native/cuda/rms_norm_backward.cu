#include "cuda/column_sums.h"
#include "cuda/common/elements.cuh"
#include "cuda/common/launch.cuh"
#include "cuda/common/reduce.cuh"
#include "cuda/operations.h"

namespace spkv {
namespace cuda {
namespace {

constexpr int kWidth = 4;
constexpr unsigned kMostThreads = 512, kWarpsPerBlock = 4;
constexpr int kBlocksPerMultiprocessor = 4;

// The x dimension of a block takes a row at a time, and adds what it gives to the weight's gradient to a row
// of shared memory of its own: every thread has its columns there.
template <typename Dx, typename Dy, typename X, typename W>
__global__ void __launch_bounds__(kMostThreads)
    rms_norm_backward_kernel(RmsNormBackwardParams params, int64_t rows, bool aligned, float* partial) {
  const View &dx = params.dx, &dy = params.dy, &x = params.x;
  const bool heads = x.rank == 3;
  const int64_t count = heads ? x.shape[1] : 1, columns = x.shape[x.rank - 1];
  float* sums = reinterpret_cast<float*>(dynamic_shared()) + threadIdx.y * columns;
  const W* weight = params.weight.as<const W>();
  for (int64_t i = threadIdx.x; i < columns; i += blockDim.x) sums[i] = 0;
  __syncthreads();
  const auto row_of = [&](const View& view, int64_t row) {
    return row / count * view.stride[0] + (heads ? row % count * view.stride[1] : 0);
  };
  for (int64_t row = int64_t{blockIdx.x} * blockDim.y + threadIdx.y; row < rows;
       row += int64_t{gridDim.x} * blockDim.y) {
    const Dy* above = dy.as<const Dy>() + row_of(dy, row);
    const X* from = x.as<const X>() + row_of(x, row);
    Dx* to = dx.as<Dx>() + row_of(dx, row);
    uint16_t* copy = params.copy ? params.copy.as<uint16_t>() + row_of(params.copy, row) : nullptr;
    float squares = 0, products = 0;
    for_elements<kWidth>(columns, aligned, [&](int64_t i, auto elements) {
      const auto v = load_floats(from + i, elements), d = load_floats(above + i, elements),
                 w = load_floats(weight + i, elements);
#pragma unroll
      for (int j = 0; j < static_cast<int>(sizeof v.at / sizeof v.at[0]); j++) {
        squares += v.at[j] * v.at[j];
        products += d.at[j] * w.at[j] * v.at[j];
      }
    });
    squares = block_reduce(squares, 0.0f, Sum());
    products = block_reduce(products, 0.0f, Sum());
    const float mean = squares / static_cast<float>(columns);
    const float scale = 1.0f / sqrtf(mean + params.epsilon);
    const float shift = scale * scale * scale * products / static_cast<float>(columns);
    for_elements<kWidth>(columns, aligned, [&](int64_t i, auto elements) {
      const auto v = load_floats(from + i, elements), d = load_floats(above + i, elements),
                 w = load_floats(weight + i, elements);
      auto result = load_floats(to + i, elements);
#pragma unroll
      for (int j = 0; j < static_cast<int>(sizeof v.at / sizeof v.at[0]); j++) {
        sums[i + j] += d.at[j] * v.at[j] * scale;
        const float value = d.at[j] * w.at[j] * scale - v.at[j] * shift;
        result.at[j] = params.accumulate ? result.at[j] + value : value;
      }
      store(to + i, convert<Dx>(result), elements);
      if (copy) store(copy + i, convert<uint16_t>(result), elements);
    });
  }
  __syncthreads();
  for (int64_t i = threadIdx.y * blockDim.x + threadIdx.x; i < columns; i += blockDim.x * blockDim.y) {
    float total = 0;
    for (unsigned y = 0; y < blockDim.y; y++)
      total += reinterpret_cast<float*>(dynamic_shared())[y * columns + i];
    partial[blockIdx.x * columns + i] = total;
  }
}

template <typename Dx, typename Dy, typename X>
auto kernel_for(DType weight) {
  return weight == DType::kBF16 ? rms_norm_backward_kernel<Dx, Dy, X, uint16_t>
                                : rms_norm_backward_kernel<Dx, Dy, X, float>;
}

template <typename Dx, typename Dy>
auto kernel_for(DType x, DType weight) {
  return x == DType::kBF16 ? kernel_for<Dx, Dy, uint16_t>(weight) : kernel_for<Dx, Dy, float>(weight);
}

}  // namespace

Status rms_norm_backward(const RmsNormBackwardParams& params, Execution& execution) {
  Context& on = context(execution);
  if (params.x.size() == 0) return Status();
  const int64_t columns = params.x.shape[params.x.rank - 1], rows = params.x.size() / columns;
  bool aligned = !params.copy || starts_aligned(params.copy, kWidth);
  for (const View* view : {&params.dx, &params.dy, &params.x, &params.weight})
    aligned = aligned && starts_aligned(*view, kWidth);
  const unsigned threads = threads_for(blocks_for(columns, kWidth), kMostThreads);
  LaunchShape shape;
  shape.block = dim3(threads, threads == 32 ? kWarpsPerBlock : 1);
  shape.shared_bytes = static_cast<int>(shape.block.y * columns * 4);
  const int64_t most = int64_t{on.multiprocessors()} * kBlocksPerMultiprocessor,
                wanted = blocks_for(rows, shape.block.y), groups = wanted < most ? wanted : most;
  shape.grid = dim3(static_cast<unsigned>(groups));
  Status status;
  float* partial = partial_sums(groups, columns, on, &status);
  if (!partial) return status;
  const DType x = params.x.dtype, weight = params.weight.dtype;
  const bool dx16 = params.dx.dtype == DType::kBF16, dy16 = params.dy.dtype == DType::kBF16;
  const auto kernel =
      dx16 ? (dy16 ? kernel_for<uint16_t, uint16_t>(x, weight) : kernel_for<uint16_t, float>(x, weight))
           : (dy16 ? kernel_for<float, uint16_t>(x, weight) : kernel_for<float, float>(x, weight));
  SPKV_RETURN_IF_ERROR(
      check(launch(on.stream(), shape, kernel, params, rows, aligned, partial), "rms_norm_backward"));
  return add_partial_sums(params.d_weight.as<float>(), partial, groups, columns, columns, on);
}

}  // namespace cuda
}  // namespace spkv
