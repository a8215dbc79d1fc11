// A thread takes 8 neighbouring elements of a row, so that both sides move in chunks of 16 bytes where the
// alignment allows it.
#include "cuda/convert.h"

#include <cuda_bf16.h>

#include "cuda/common/launch.cuh"

namespace spkv {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kChunk = 8;
constexpr int64_t kMaxBlocks = int64_t{1} << 16;

struct alignas(16) Float8 {
  float4 low, high;
};
struct alignas(16) Half8 {
  __nv_bfloat162 pair[4];
};

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ void put(float* at, float x) { *at = x; }
__device__ __forceinline__ void put(__nv_bfloat16* at, float x) { *at = __float2bfloat16_rn(x); }

__device__ __forceinline__ void load_chunk(const float* from, float (&x)[kChunk]) {
  Float8 chunk = *reinterpret_cast<const Float8*>(from);
  x[0] = chunk.low.x, x[1] = chunk.low.y, x[2] = chunk.low.z, x[3] = chunk.low.w;
  x[4] = chunk.high.x, x[5] = chunk.high.y, x[6] = chunk.high.z, x[7] = chunk.high.w;
}
__device__ __forceinline__ void load_chunk(const __nv_bfloat16* from, float (&x)[kChunk]) {
  Half8 chunk = *reinterpret_cast<const Half8*>(from);
#pragma unroll
  for (int i = 0; i < 4; i++) {
    x[2 * i] = __bfloat162float(chunk.pair[i].x);
    x[2 * i + 1] = __bfloat162float(chunk.pair[i].y);
  }
}
__device__ __forceinline__ void store_chunk(float* to, const float (&x)[kChunk]) {
  Float8 chunk;
  chunk.low = make_float4(x[0], x[1], x[2], x[3]);
  chunk.high = make_float4(x[4], x[5], x[6], x[7]);
  *reinterpret_cast<Float8*>(to) = chunk;
}
__device__ __forceinline__ void store_chunk(__nv_bfloat16* to, const float (&x)[kChunk]) {
  Half8 chunk;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    chunk.pair[i].x = __float2bfloat16_rn(x[2 * i]);
    chunk.pair[i].y = __float2bfloat16_rn(x[2 * i + 1]);
  }
  *reinterpret_cast<Half8*>(to) = chunk;
}

template <typename To, typename From, bool aligned>
__global__ void __launch_bounds__(kThreads)
    convert_kernel(To* to, int64_t to_stride, const From* from, int64_t from_stride, int64_t rows,
                   int64_t columns) {
  const int64_t chunks = (columns + kChunk - 1) / kChunk;
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < rows * chunks; i += step) {
    const int64_t row = i / chunks, column = (i - row * chunks) * kChunk;
    const From* source = from + row * from_stride + column;
    To* target = to + row * to_stride + column;
    if (aligned && column + kChunk <= columns) {
      float x[kChunk];
      load_chunk(source, x);
      store_chunk(target, x);
    } else {
#pragma unroll
      for (int j = 0; j < kChunk; j++)
        if (column + j < columns) put(target + j, to_float(source[j]));
    }
  }
}

// One element per thread. What is not finite is not in the parts behind the first, whose products would turn
// an infinity into NaN.
__global__ void __launch_bounds__(kThreads)
    split_kernel(__nv_bfloat16* to, int64_t to_stride, int64_t distance, const float* from,
                 int64_t from_stride, int64_t rows, int64_t columns) {
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < rows * columns; i += step) {
    const int64_t row = i / columns, column = i - row * columns;
    float left = from[row * from_stride + column];
    __nv_bfloat16* target = to + row * to_stride + column;
#pragma unroll
    for (int part = 0; part < 3; part++) {
      const __nv_bfloat16 rounded = __float2bfloat16_rn(left);
      target[part * distance] = rounded;
      left = isfinite(__bfloat162float(rounded)) ? left - __bfloat162float(rounded) : 0;
    }
  }
}

bool chunks_aligned(const Rows& side, int64_t rows) {
  const int64_t unit = 16 / dtype_bytes(side.dtype);
  return reinterpret_cast<uintptr_t>(side.data) % 16 == 0 && (rows == 1 || side.stride % unit == 0);
}

template <typename To, typename From>
cudaError_t convert(const Rows& to, const Rows& from, int64_t rows, int64_t columns, cudaStream_t stream) {
  const bool aligned = chunks_aligned(to, rows) && chunks_aligned(from, rows);
  const int64_t blocks = (rows * ((columns + kChunk - 1) / kChunk) + kThreads - 1) / kThreads;
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(blocks < kMaxBlocks ? blocks : kMaxBlocks));
  shape.block = dim3(kThreads);
  auto kernel = aligned ? convert_kernel<To, From, true> : convert_kernel<To, From, false>;
  return launch(stream, shape, kernel, static_cast<To*>(to.data), to.stride,
                static_cast<const From*>(from.data), from.stride, rows, columns);
}

}  // namespace

cudaError_t convert_rows(const Rows& to, const Rows& from, int64_t rows, int64_t columns,
                         cudaStream_t stream) {
  if (rows == 0 || columns == 0) return cudaSuccess;
  const bool narrow = to.dtype == DType::kBF16;
  if (from.dtype == DType::kBF16)
    return narrow ? convert<__nv_bfloat16, __nv_bfloat16>(to, from, rows, columns, stream)
                  : convert<float, __nv_bfloat16>(to, from, rows, columns, stream);
  return narrow ? convert<__nv_bfloat16, float>(to, from, rows, columns, stream)
                : convert<float, float>(to, from, rows, columns, stream);
}

cudaError_t split_rows(const Rows& to, int64_t distance, const Rows& from, int64_t rows, int64_t columns,
                       cudaStream_t stream) {
  if (rows == 0 || columns == 0) return cudaSuccess;
  const int64_t blocks = (rows * columns + kThreads - 1) / kThreads;
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(blocks < kMaxBlocks ? blocks : kMaxBlocks));
  shape.block = dim3(kThreads);
  return launch(stream, shape, split_kernel, static_cast<__nv_bfloat16*>(to.data), to.stride, distance,
                static_cast<const float*>(from.data), from.stride, rows, columns);
}

}  // namespace cuda
}  // namespace spkv
