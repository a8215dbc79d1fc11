#include "cuda/column_sums.h"
#include "cuda/common/elements.cuh"
#include "cuda/common/launch.cuh"
#include "cuda/common/reduce.cuh"
#include "cuda/operations.h"

namespace spkv {
namespace cuda {
namespace {

constexpr int kWidth = 4;
constexpr int kPacks = 2;  // of kWidth elements, a thread's of a row that is read once
constexpr unsigned kMostThreads = 512, kWarpsPerBlock = 8;
constexpr unsigned kThreadsPerMultiprocessor = 1024;

// Where the rows of [T, N] or [T, heads, N] begin.
struct RowsOf {
  int64_t heads;
  __device__ __forceinline__ int64_t operator()(const View& view, int64_t row) const {
    return row / heads * view.stride[0] + (heads > 1 ? row % heads * view.stride[1] : 0);
  }
};

// The sums of the block's rows of shared memory go to its row of `partial`.
__device__ __forceinline__ void add_rows(const float* sums, int64_t columns, float* partial) {
  __syncthreads();
  for (int64_t i = threadIdx.y * blockDim.x + threadIdx.x; i < columns; i += blockDim.x * blockDim.y) {
    float total = 0;
    for (unsigned y = 0; y < blockDim.y; y++) total += sums[y * columns + i];
    partial[blockIdx.x * columns + i] = total;
  }
}

// The x dimension of a block takes a row at a time. Every thread keeps its elements in registers from reading
// to writing, and sums up what they give to the weight's gradient.
template <typename Dx, typename Dy, typename X, typename W>
__device__ __forceinline__ void read_once(const RmsNormBackwardParams& params, int64_t rows, float* partial) {
  constexpr Elements<kWidth> kAligned = {true};
  const View &dx = params.dx, &dy = params.dy, &x = params.x;
  const RowsOf start = {x.rank == 3 ? x.shape[1] : 1};
  const int64_t columns = x.rank == 3 ? x.shape[2] : x.shape[1];
  const W* weight = params.weight.as<const W>();
  const auto for_packs = [&](auto act) {
#pragma unroll
    for (int p = 0; p < kPacks; p++) {
      const int64_t i = (int64_t{p} * blockDim.x + threadIdx.x) * kWidth;
      if (i < columns) act(p, i);
    }
  };
  Pack<float, kWidth> sums[kPacks] = {};
  for (int64_t row = int64_t{blockIdx.x} * blockDim.y + threadIdx.y; row < rows;
       row += int64_t{gridDim.x} * blockDim.y) {
    const Dy* above = dy.as<const Dy>() + start(dy, row);
    const X* from = x.as<const X>() + start(x, row);
    Dx* to = dx.as<Dx>() + start(dx, row);
    uint16_t* copy = params.copy ? params.copy.as<uint16_t>() + start(params.copy, row) : nullptr;
    Pack<float, kWidth> v[kPacks] = {}, d[kPacks] = {}, result[kPacks] = {};
    float squares = 0, products = 0;
    for_packs([&](int p, int64_t i) {
      v[p] = load_floats(from + i, kAligned), d[p] = load_floats(above + i, kAligned);
      if (params.accumulate) result[p] = load_floats(to + i, kAligned);
    });
    for_packs([&](int p, int64_t i) {
      const auto w = load_floats(weight + i, kAligned);
#pragma unroll
      for (int j = 0; j < kWidth; j++) {
        squares += v[p].at[j] * v[p].at[j];
        products += d[p].at[j] * w.at[j] * v[p].at[j];
      }
    });
    squares = block_reduce(squares, 0.0f, Sum());
    products = block_reduce(products, 0.0f, Sum());
    const float mean = squares / static_cast<float>(columns);
    const float scale = 1.0f / sqrtf(mean + params.epsilon);
    const float shift = scale * scale * scale * products / static_cast<float>(columns);
    for_packs([&](int p, int64_t i) {
      const auto w = load_floats(weight + i, kAligned);
#pragma unroll
      for (int j = 0; j < kWidth; j++) {
        sums[p].at[j] += d[p].at[j] * v[p].at[j] * scale;
        result[p].at[j] += d[p].at[j] * w.at[j] * scale - v[p].at[j] * shift;
      }
      store(to + i, convert<Dx>(result[p]), kAligned);
      if (copy) store(copy + i, convert<uint16_t>(result[p]), kAligned);
    });
  }
  float* shared = reinterpret_cast<float*>(dynamic_shared());
  for_packs([&](int p, int64_t i) { store(shared + threadIdx.y * columns + i, sums[p], kAligned); });
  add_rows(shared, columns, partial);
}

// The same for rows that are long, or not aligned, and are read twice; the sums are in shared memory.
template <typename Dx, typename Dy, typename X, typename W>
__device__ __forceinline__ void read_twice(const RmsNormBackwardParams& params, int64_t rows, bool aligned,
                                           float* partial) {
  const View &dx = params.dx, &dy = params.dy, &x = params.x;
  const RowsOf start = {x.rank == 3 ? x.shape[1] : 1};
  const int64_t columns = x.rank == 3 ? x.shape[2] : x.shape[1];
  float* sums = reinterpret_cast<float*>(dynamic_shared()) + threadIdx.y * columns;
  const W* weight = params.weight.as<const W>();
  for (int64_t i = threadIdx.x; i < columns; i += blockDim.x) sums[i] = 0;
  __syncthreads();
  for (int64_t row = int64_t{blockIdx.x} * blockDim.y + threadIdx.y; row < rows;
       row += int64_t{gridDim.x} * blockDim.y) {
    const Dy* above = dy.as<const Dy>() + start(dy, row);
    const X* from = x.as<const X>() + start(x, row);
    Dx* to = dx.as<Dx>() + start(dx, row);
    uint16_t* copy = params.copy ? params.copy.as<uint16_t>() + start(params.copy, row) : nullptr;
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
  add_rows(reinterpret_cast<float*>(dynamic_shared()), columns, partial);
}

template <bool kOnce, typename Dx, typename Dy, typename X, typename W>
__global__ void __launch_bounds__(kMostThreads, kThreadsPerMultiprocessor / kMostThreads)
    rms_norm_backward_kernel(const __grid_constant__ RmsNormBackwardParams params, int64_t rows, bool aligned,
                             float* partial) {
  if (kOnce)
    read_once<Dx, Dy, X, W>(params, rows, partial);
  else
    read_twice<Dx, Dy, X, W>(params, rows, aligned, partial);
}

template <bool kOnce, typename Dx, typename Dy, typename X>
auto kernel_for(DType weight) {
  return weight == DType::kBF16 ? rms_norm_backward_kernel<kOnce, Dx, Dy, X, uint16_t>
                                : rms_norm_backward_kernel<kOnce, Dx, Dy, X, float>;
}

template <bool kOnce, typename Dx, typename Dy>
auto kernel_for(DType x, DType weight) {
  return x == DType::kBF16 ? kernel_for<kOnce, Dx, Dy, uint16_t>(weight)
                           : kernel_for<kOnce, Dx, Dy, float>(weight);
}

template <bool kOnce>
auto kernel_for(const RmsNormBackwardParams& params) {
  const DType x = params.x.dtype, weight = params.weight.dtype;
  const bool dy16 = params.dy.dtype == DType::kBF16;
  if (params.dx.dtype == DType::kBF16)
    return dy16 ? kernel_for<kOnce, uint16_t, uint16_t>(x, weight)
                : kernel_for<kOnce, uint16_t, float>(x, weight);
  return dy16 ? kernel_for<kOnce, float, uint16_t>(x, weight) : kernel_for<kOnce, float, float>(x, weight);
}

}  // namespace

Status rms_norm_backward(const RmsNormBackwardParams& params, Execution& execution) {
  Context& on = context(execution);
  if (params.x.size() == 0) return Status();
  const int64_t columns = params.x.shape[params.x.rank - 1], rows = params.x.size() / columns;
  bool aligned = !params.copy || starts_aligned(params.copy, kWidth);
  for (const View* view : {&params.dx, &params.dy, &params.x, &params.weight})
    aligned = aligned && starts_aligned(*view, kWidth);
  const bool short_row = columns % kWidth == 0 && columns <= int64_t{kMostThreads} * kPacks * kWidth;
  const unsigned threads =
      threads_for(blocks_for(columns, short_row ? kPacks * kWidth : kWidth), kMostThreads);
  LaunchShape shape;
  shape.block = dim3(threads, threads == 32 ? kWarpsPerBlock : 1);
  shape.shared_bytes = static_cast<int>(shape.block.y * columns * 4);
  const int64_t most =
                    int64_t{on.multiprocessors()} * (kThreadsPerMultiprocessor / (threads * shape.block.y)),
                wanted = blocks_for(rows, shape.block.y), groups = wanted < most ? wanted : most;
  shape.grid = dim3(static_cast<unsigned>(groups));
  Status status;
  float* partial = partial_sums(groups, columns, on, &status);
  if (!partial) return status;
  const auto kernel = short_row && aligned ? kernel_for<true>(params) : kernel_for<false>(params);
  SPKV_RETURN_IF_ERROR(
      check(launch(on.stream(), shape, kernel, params, rows, aligned, partial), "rms_norm_backward"));
  return add_partial_sums(params.d_weight, partial, groups, on);
}

}  // namespace cuda
}  // namespace spkv
