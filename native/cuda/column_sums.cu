// Every block sums a range of rows in columns of its own; the ranges are added up in a second launch.
#include "cuda/column_sums.h"

#include "cuda/common/elements.cuh"
#include "cuda/common/launch.cuh"
#include "cuda/operations.h"

namespace spkv {
namespace cuda {
namespace {

constexpr int kColumns = 32, kLanes = 8;  // of a block
constexpr int kGroupLanes = 32;  // of a block that adds groups up: few blocks, so each does it at once
constexpr int64_t kLeastRows = 64, kMostGroups = 512;

// Thread (c, y) has added rows y, y + kCount, ... of column c; the lanes are added up in order.
template <int kCount>
__device__ __forceinline__ float add_lanes(float sum) {
  __shared__ float lanes[kCount][kColumns];
  lanes[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  float total = 0;
#pragma unroll
  for (int y = 0; y < kCount; y++) total += lanes[y][threadIdx.x];
  return total;
}

__global__ void __launch_bounds__(kColumns* kGroupLanes)
    add_partial_sums_kernel(float* out, int64_t width, int64_t stride, int64_t columns, const float* partial,
                            int64_t groups) {
  const int64_t column = int64_t{blockIdx.x} * kColumns + threadIdx.x;
  float sum = 0;
  if (column < columns) {
#pragma unroll 4
    for (int64_t group = threadIdx.y; group < groups; group += kGroupLanes)
      sum += partial[group * columns + column];
  }
  sum = add_lanes<kGroupLanes>(sum);
  if (threadIdx.y == 0 && column < columns) out[column / width * stride + column % width] += sum;
}

// Block (i, j) sums rows [j * rows, (j + 1) * rows) of columns [i * kColumns, (i + 1) * kColumns).
template <typename T>
__global__ void __launch_bounds__(kColumns* kLanes) column_sums_kernel(View x, int64_t rows, float* partial) {
  const int64_t column = int64_t{blockIdx.x} * kColumns + threadIdx.x, columns = x.shape[1];
  const int64_t first = int64_t{blockIdx.y} * rows,
                end = first + rows < x.shape[0] ? first + rows : x.shape[0];
  float sum = 0;
  if (column < columns)
    for (int64_t t = first + threadIdx.y; t < end; t += kLanes)
      sum += Convert<float, T>::apply(x.as<const T>()[t * x.stride[0] + column]);
  sum = add_lanes<kLanes>(sum);
  if (threadIdx.y == 0 && column < columns) partial[int64_t{blockIdx.y} * columns + column] = sum;
}

}  // namespace

float* partial_sums(int64_t groups, int64_t columns, Context& context, Status* status) {
  return static_cast<float*>(context.scratch(Scratch::kPartialSums, groups * columns * 4, status));
}

Status add_partial_sums(const View& out, const float* partial, int64_t groups, Context& context) {
  LaunchShape shape;
  shape.grid = dim3(blocks_for(out.size(), kColumns));
  shape.block = dim3(kColumns, kGroupLanes);
  return check(launch(context.stream(), shape, add_partial_sums_kernel, out.as<float>(),
                      out.shape[out.rank - 1], out.stride[0], out.size(), partial, groups),
               "adding up partial sums");
}

Status add_column_sums(const View& out, const View& x, Context& context) {
  const int64_t tokens = x.shape[0], columns = x.shape[1];
  if (tokens == 0 || columns == 0) return Status();
  const int64_t least = (tokens + kMostGroups - 1) / kMostGroups;
  const int64_t rows = least > kLeastRows ? least : kLeastRows, groups = (tokens + rows - 1) / rows;
  Status status;
  float* partial = partial_sums(groups, columns, context, &status);
  if (!partial) return status;
  LaunchShape shape;
  shape.grid = dim3(blocks_for(columns, kColumns), static_cast<unsigned>(groups));
  shape.block = dim3(kColumns, kLanes);
  const auto kernel = x.dtype == DType::kBF16 ? column_sums_kernel<uint16_t> : column_sums_kernel<float>;
  SPKV_RETURN_IF_ERROR(check(launch(context.stream(), shape, kernel, x, rows, partial), "column_sums"));
  return add_partial_sums(out, partial, groups, context);
}

Status column_sums(const ColumnSumsParams& params, Execution& execution) {
  return add_column_sums(params.out, params.x, context(execution));
}

}  // namespace cuda
}  // namespace spkv
