// One warp per row of D numbers.
#include "cuda/new_pairs.h"

#include <algorithm>

#include "core/cache.h"
#include "core/fp8.h"
#include "cuda/common/launch.cuh"

namespace spkv {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr unsigned kMostBlocks = 2048;

using fp8::magnitude;

// The bits of the largest |x| of the row; NaN has the highest. For all lanes of a warp.
__device__ uint32_t largest_of(const float* row, int count, bool vectors) {
  uint32_t worst = 0;
  int lane = threadIdx.x % 32;
  if (vectors) {
    for (int i = lane * 4; i < count; i += 128) {
      float4 x = *reinterpret_cast<const float4*>(row + i);
      worst = max(worst, max(max(magnitude(x.x), magnitude(x.y)), max(magnitude(x.z), magnitude(x.w))));
    }
  } else {
    for (int i = lane; i < count; i += 32) worst = max(worst, magnitude(row[i]));
  }
  return __reduce_max_sync(~0u, worst);
}

// The largest numbers that keys and values, and utilities, may have, by their bits.
struct Limits {
  uint32_t pair, utility;
};

__global__ void __launch_bounds__(kThreads)
    check_kernel(NewPairs pairs, DType dtype, Limits limits, InsertFaults faults) {
  bool vectors = pairs.aligned && pairs.head_dim % 4 == 0;
  int64_t rows = int64_t{pairs.layers} * pairs.tokens * pairs.kv_heads;
  for (int64_t i = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32; i < rows;
       i += int64_t{gridDim.x} * kWarps) {
    int head = static_cast<int>(i % pairs.kv_heads);
    int token = static_cast<int>(i / pairs.kv_heads % pairs.tokens);
    int layer = static_cast<int>(i / pairs.kv_heads / pairs.tokens);
    uint32_t key = largest_of(pairs.key(layer, token, head), pairs.head_dim, vectors);
    uint32_t value = largest_of(pairs.value(layer, token, head), pairs.head_dim, vectors);
    uint32_t utility = 0;
    if (pairs.utilities)
      utility = magnitude(pairs.utilities[layer * pairs.utility_stride[0] + token * pairs.utility_stride[1] +
                                          head * pairs.utility_stride[2]]);
    if (threadIdx.x % 32 != 0) continue;
    if (dtype == DType::kFP8) {
      pairs.scales[2 * i] = fp8::scale_of(key);
      pairs.scales[2 * i + 1] = fp8::scale_of(value);
    }
    int what = key > limits.pair ? 0 : value > limits.pair ? 1 : utility > limits.utility ? 2 : 3;
    if (what < 3)
      raise_fault(faults.fault, faults.non_finite, layer * 3 + what, static_cast<uint32_t>(dtype));
  }
}

bool rows_aligned(const View& view) {
  return reinterpret_cast<uintptr_t>(view.data) % 16 == 0 && view.stride[0] % 4 == 0 &&
         view.stride[1] % 4 == 0 && view.stride[2] % 4 == 0;
}

}  // namespace

NewPairs::NewPairs(const View& k, const View& v, const View& u)
    : keys(k.as<float>()),
      values(v.as<float>()),
      utilities(u.as<float>()),
      layers(static_cast<int32_t>(k.shape[0])),
      tokens(static_cast<int32_t>(k.shape[1])),
      kv_heads(static_cast<int32_t>(k.shape[2])),
      head_dim(static_cast<int32_t>(k.shape[3])),
      aligned(rows_aligned(k) && rows_aligned(v)) {
  for (int i = 0; i < 3; i++) {
    key_stride[i] = k.stride[i];
    value_stride[i] = v.stride[i];
    utility_stride[i] = u.stride[i];
  }
}

cudaError_t check_pairs(const NewPairs& pairs, DType dtype, const InsertFaults& faults, cudaStream_t stream) {
  int64_t rows = int64_t{pairs.layers} * pairs.tokens * pairs.kv_heads;
  if (rows == 0) return cudaSuccess;
  LaunchShape shape = {dim3(std::min(blocks_for(rows, kWarps), kMostBlocks)), dim3(kThreads)};
  Limits limits = {largest_number(dtype), largest_number(DType::kF32)};
  return launch(stream, shape, check_kernel, pairs, dtype, limits, faults);
}

}  // namespace cuda
}  // namespace spkv
