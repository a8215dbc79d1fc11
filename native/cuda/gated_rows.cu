#include "cuda/gated_rows.h"

#include <cmath>

#include "cuda/common/reduce.cuh"

namespace spkv {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

__device__ __forceinline__ float2 load_pair(const uint16_t* from) {
  uint32_t pair = *reinterpret_cast<const uint32_t*>(from);
  return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000));
}

// Grid: items of kKeyTile queries, heads.
template <int kDim>
__global__ void __launch_bounds__(kThreads) product_kernel(const __grid_constant__ GatedProducts p) {
  GatedItem item = p.lists.items[blockIdx.x];
  int token = p.lists.offsets[item.document], tokens = p.lists.offsets[item.document + 1] - token;
  int head = blockIdx.y, first = (item.cost - 1) * kKeyTile, lane = threadIdx.x % 32;
  if (first >= tokens) return;
  int64_t to = head * p.query_rows + GatedBackward::first_row(token, item.document);
#pragma unroll 4
  for (int i = threadIdx.x / 32; i < kKeyTile; i += kWarps) {
    int query = first + i;
    float sum = 0, log_sum = INFINITY;
    if (query < tokens) {
#pragma unroll
      for (int d = lane * 2; d < kDim; d += 64) {
        float2 a = load_pair(p.out.row(token + query, head) + d);
        float2 b = load_pair(p.d_out.row(token + query, head) + d);
        sum += a.x * b.x + a.y * b.y;
      }
      if (lane == 0) log_sum = p.log_sum_exp[(token + query) * p.log_sum_exp_stride + head];
    }
    sum = warp_reduce(sum, Sum());
    if (lane == 0) {
      p.log_sums[to + query] = -log_sum / p.scale;
      p.products[to + query] = -sum;
    }
  }
}

// Grid: items of kKeyTile queries, heads. A thread brings together eight columns of two rows.
template <int kDim>
__global__ void __launch_bounds__(kThreads) finish_kernel(const __grid_constant__ GatedQueryGradients p) {
  GatedItem item = p.lists.items[blockIdx.x];
  int token = p.lists.offsets[item.document], tokens = p.lists.offsets[item.document + 1] - token;
  int head = blockIdx.y, first = (item.cost - 1) * kKeyTile;
  if (first >= tokens) return;
  int64_t row = head * p.query_rows + GatedBackward::first_row(token, item.document) + first;
  const auto* sums = reinterpret_cast<const float4*>(p.dq_sums + row * kDim);
  constexpr int kPart = 64 * 64 / 4;  // float4
  for (int i = threadIdx.x; i < kKeyTile * kDim / 16; i += kThreads) {
    int part = i / 256, eight = i / 128 % 2 * 4 + i % 4, warp = i / 32 % 4, g = i % 32 / 4;
    const float4* from = sums + part * kPart + eight * 128 + warp * 32 + g * 4;
    int query = first + (kDim == 128 ? part / 2 : part) * 64 + warp * 16 + g;
    int column = (kDim == 128 ? part % 2 * 64 : 0) + eight * 8;
    float4 four[4];
#pragma unroll
    for (int t = 0; t < 4; t++) four[t] = from[t];
    for (int half = 0; half < 2; half++, query += 8) {
      if (query >= tokens) continue;
      uint32_t pairs[4];
#pragma unroll
      for (int t = 0; t < 4; t++)
        pairs[t] = half ? pack_bf16(four[t].z * p.scale, four[t].w * p.scale)
                        : pack_bf16(four[t].x * p.scale, four[t].y * p.scale);
      *reinterpret_cast<uint4*>(p.dq.row(token + query, head) + column) =
          make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
    }
  }
}

template <typename Params>
cudaError_t launch_rows(void (*kernel)(Params), const Params& params, cudaStream_t stream) {
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(params.lists.item_count), static_cast<unsigned>(params.heads));
  shape.block = dim3(kThreads);
  return launch(stream, shape, kernel, params);
}

}  // namespace

cudaError_t make_products(const GatedProducts& params, int64_t dim, cudaStream_t stream) {
  return launch_rows(dim == 128 ? product_kernel<128> : product_kernel<64>, params, stream);
}

cudaError_t finish_dq(const GatedQueryGradients& params, int64_t dim, cudaStream_t stream) {
  return launch_rows(dim == 128 ? finish_kernel<128> : finish_kernel<64>, params, stream);
}

}  // namespace cuda
}  // namespace spkv
