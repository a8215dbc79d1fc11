#include "cuda/column_sums.h"
#include "cuda/common/elements.cuh"
#include "cuda/common/launch.cuh"
#include "cuda/common/reduce.cuh"
#include "cuda/norm_rows.cuh"
#include "cuda/operations.h"

namespace spkv {
namespace cuda {
namespace {

constexpr unsigned kThreadsPerMultiprocessor = 1024;

// A row of the operands.
template <typename Dx, typename Dy, typename X>
struct OperandRow {
  const Dy* above;
  const X* from;
  Dx* to;
  uint16_t* copy;

  __device__ __forceinline__ OperandRow(const RmsNormBackwardParams& params, const NormRows& at, int64_t row)
      : above(params.dy.as<const Dy>() + at.start(params.dy, row)),
        from(params.x.as<const X>() + at.start(params.x, row)),
        to(params.dx.as<Dx>() + at.start(params.dx, row)),
        copy(params.copy ? params.copy.as<uint16_t>() + at.start(params.copy, row) : nullptr) {}
};

// dx = w dy scale - x shift, from the threads' sums of x^2 and w dy x.
struct Factors {
  float scale, shift;

  __device__ __forceinline__ Factors(float squares, float products, float columns, float epsilon) {
    squares = block_reduce(squares, 0.0f, Sum());
    products = block_reduce(products, 0.0f, Sum());
    scale = 1.0f / sqrtf(squares / columns + epsilon);
    shift = scale * scale * scale * products / columns;
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
  constexpr Elements<kNormWidth> kAligned = {true};
  const NormRows at(params.x);
  const int64_t columns = at.columns;
  const W* weight = params.weight.as<const W>();
  Pack<float, kNormWidth> sums[kNormPacks] = {};
  for (int64_t row = int64_t{blockIdx.x} * blockDim.y + threadIdx.y; row < rows;
       row += int64_t{gridDim.x} * blockDim.y) {
    const OperandRow<Dx, Dy, X> operands(params, at, row);
    Pack<float, kNormWidth> v[kNormPacks] = {}, d[kNormPacks] = {}, result[kNormPacks] = {};
    float squares = 0, products = 0;
    for_packs(columns, [&](int p, int64_t i) {
      v[p] = load_floats(operands.from + i, kAligned), d[p] = load_floats(operands.above + i, kAligned);
      if (params.accumulate) result[p] = load_floats(operands.to + i, kAligned);
    });
    for_packs(columns, [&](int p, int64_t i) {
      const auto w = load_floats(weight + i, kAligned);
#pragma unroll
      for (int j = 0; j < kNormWidth; j++) {
        squares += v[p].at[j] * v[p].at[j];
        products += d[p].at[j] * w.at[j] * v[p].at[j];
      }
    });
    const Factors by(squares, products, static_cast<float>(columns), params.epsilon);
    for_packs(columns, [&](int p, int64_t i) {
      const auto w = load_floats(weight + i, kAligned);
#pragma unroll
      for (int j = 0; j < kNormWidth; j++) {
        sums[p].at[j] += d[p].at[j] * v[p].at[j] * by.scale;
        result[p].at[j] += d[p].at[j] * w.at[j] * by.scale - v[p].at[j] * by.shift;
      }
      store(operands.to + i, convert<Dx>(result[p]), kAligned);
      if (operands.copy) store(operands.copy + i, convert<uint16_t>(result[p]), kAligned);
    });
  }
  float* shared = reinterpret_cast<float*>(dynamic_shared());
  for_packs(columns, [&](int p, int64_t i) { store(shared + threadIdx.y * columns + i, sums[p], kAligned); });
  add_rows(shared, columns, partial);
}

// The same for rows that are long, or not aligned, and are read twice; the sums are in shared memory.
template <typename Dx, typename Dy, typename X, typename W>
__device__ __forceinline__ void read_twice(const RmsNormBackwardParams& params, int64_t rows, bool aligned,
                                           float* partial) {
  const NormRows at(params.x);
  const int64_t columns = at.columns;
  float* sums = reinterpret_cast<float*>(dynamic_shared()) + threadIdx.y * columns;
  const W* weight = params.weight.as<const W>();
  for (int64_t i = threadIdx.x; i < columns; i += blockDim.x) sums[i] = 0;
  __syncthreads();
  for (int64_t row = int64_t{blockIdx.x} * blockDim.y + threadIdx.y; row < rows;
       row += int64_t{gridDim.x} * blockDim.y) {
    const OperandRow<Dx, Dy, X> operands(params, at, row);
    float squares = 0, products = 0;
    for_elements<kNormWidth>(columns, aligned, [&](int64_t i, auto elements) {
      const auto v = load_floats(operands.from + i, elements), d = load_floats(operands.above + i, elements),
                 w = load_floats(weight + i, elements);
#pragma unroll
      for (int j = 0; j < static_cast<int>(sizeof v.at / sizeof v.at[0]); j++) {
        squares += v.at[j] * v.at[j];
        products += d.at[j] * w.at[j] * v.at[j];
      }
    });
    const Factors by(squares, products, static_cast<float>(columns), params.epsilon);
    for_elements<kNormWidth>(columns, aligned, [&](int64_t i, auto elements) {
      const auto v = load_floats(operands.from + i, elements), d = load_floats(operands.above + i, elements),
                 w = load_floats(weight + i, elements);
      auto result = load_floats(operands.to + i, elements);
#pragma unroll
      for (int j = 0; j < static_cast<int>(sizeof v.at / sizeof v.at[0]); j++) {
        sums[i + j] += d.at[j] * v.at[j] * by.scale;
        const float value = d.at[j] * w.at[j] * by.scale - v.at[j] * by.shift;
        result.at[j] = params.accumulate ? result.at[j] + value : value;
      }
      store(operands.to + i, convert<Dx>(result), elements);
      if (operands.copy) store(operands.copy + i, convert<uint16_t>(result), elements);
    });
  }
  add_rows(reinterpret_cast<float*>(dynamic_shared()), columns, partial);
}

template <bool kOnce, typename Dx, typename Dy, typename X, typename W>
__global__ void __launch_bounds__(kMostNormThreads, kThreadsPerMultiprocessor / kMostNormThreads)
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
  bool aligned = !params.copy || starts_aligned(params.copy, kNormWidth);
  for (const View* view : {&params.dx, &params.dy, &params.x, &params.weight})
    aligned = aligned && starts_aligned(*view, kNormWidth);
  const NormBlock block(columns);
  LaunchShape shape;
  shape.block = block.threads;
  shape.shared_bytes = static_cast<int>(shape.block.y * columns * 4);
  const int64_t most = int64_t{on.multiprocessors()} *
                       (kThreadsPerMultiprocessor / (shape.block.x * shape.block.y)),
                wanted = blocks_for(rows, shape.block.y), groups = wanted < most ? wanted : most;
  shape.grid = dim3(static_cast<unsigned>(groups));
  Status status;
  float* partial = partial_sums(groups, columns, on, &status);
  if (!partial) return status;
  const auto kernel = block.short_row && aligned ? kernel_for<true>(params) : kernel_for<false>(params);
  SPKV_RETURN_IF_ERROR(
      check(launch(on.stream(), shape, kernel, params, rows, aligned, partial), "rms_norm_backward"));
  return add_partial_sums(params.d_weight, partial, groups, on);
}

}  // namespace cuda
}  // namespace spkv
