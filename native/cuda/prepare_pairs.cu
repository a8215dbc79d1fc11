#include "ops/prepare_pairs.h"

#include "cuda/common/elements.cuh"
#include "cuda/common/launch.cuh"
#include "cuda/common/ptx.cuh"
#include "cuda/common/reduce.cuh"
#include "cuda/common/utility.cuh"
#include "cuda/context.h"

namespace spkv {
namespace cuda {
namespace {

constexpr unsigned kWarps = 8;

template <int N>
__device__ __forceinline__ Pack<float, N> load_any(const View& vector, int64_t i, Elements<N> elements) {
  return vector.dtype == DType::kBF16 ? load_floats(vector.as<const uint16_t>() + i, elements)
                                      : load_floats(vector.as<const float>() + i, elements);
}

// 1 / the root mean square of the head.
__device__ float norm_scale(const float* head, int64_t dim, float epsilon, bool aligned) {
  float squares = 0;
  for_elements<4>(dim, aligned, [&](int64_t i, auto elements) {
    for (float v : load(head + i, elements).at) squares += v * v;
  });
  squares = warp_reduce(squares, Sum());
  return 1.0f / sqrtf(squares / static_cast<float>(dim) + epsilon);
}

// `angles` is the token's row: D/2 cosines, then D/2 sines.
__device__ void normalize_and_rotate(float* to, const float* from, const View& norm, const float* angles,
                                     int64_t dim, float epsilon, bool aligned) {
  const int64_t half = dim / 2;
  const float scale = norm ? norm_scale(from, dim, epsilon, aligned) : 1;
  for_elements<2>(half, aligned, [&](int64_t i, auto elements) {
    auto a = load(from + i, elements), b = load(from + half + i, elements);
    const auto c = load(angles + i, elements), s = load(angles + half + i, elements);
    constexpr int kCount = static_cast<int>(sizeof a.at / sizeof a.at[0]);
    if (norm) {
      const auto first = load_any(norm, i, elements), second = load_any(norm, half + i, elements);
#pragma unroll
      for (int j = 0; j < kCount; j++) {
        a.at[j] = a.at[j] * scale * first.at[j];
        b.at[j] = b.at[j] * scale * second.at[j];
      }
    }
#pragma unroll
    for (int j = 0; j < kCount; j++) {
      const float turned = a.at[j] * c.at[j] - b.at[j] * s.at[j];
      b.at[j] = b.at[j] * c.at[j] + a.at[j] * s.at[j];
      a.at[j] = turned;
    }
    store(to + i, a, elements);
    store(to + half + i, b, elements);
  });
}

__device__ float predict(const float* hidden, const View& weight, const View& bias, int64_t g, bool log,
                         bool aligned) {
  float sum = 0;
  for_elements<4>(weight.shape[1], aligned, [&](int64_t i, auto elements) {
    const auto x = load(hidden + i, elements);
    const auto w = load_any(weight, g * weight.stride[0] + i, elements);
#pragma unroll
    for (int j = 0; j < static_cast<int>(sizeof x.at / sizeof x.at[0]); j++) sum += silu(x.at[j]) * w.at[j];
  });
  return utility_of(bias_of(bias, g) + warp_reduce(sum, Sum()),
                    log ? UtilityForm::kLogUtility : UtilityForm::kUtility);
}

__device__ __forceinline__ float* head_of(const View& view, int64_t t, int64_t h) {
  return view.as<float>() + t * view.stride[0] + h * view.stride[1];
}

// A warp to a head of a token: its queries, its keys, its values, its utilities. Block (t, i) has the heads
// [kWarps i, kWarps (i + 1)) of token t, counted through.
__global__ void __launch_bounds__(32 * kWarps) prepare_pairs_kernel(PreparePairsParams p, bool aligned) {
  wait_for_previous_launch();
  allow_next_launch();
  const int64_t t = blockIdx.x, heads = p.q.shape[1], kv_heads = p.keys.shape[1], dim = p.q.shape[2];
  const int64_t row = int64_t{blockIdx.y} * kWarps + threadIdx.y, g = row - heads;
  const float* qkv = p.qkv.as<const float>() + t * p.qkv.stride[0];
  const float* head = qkv + row * dim;
  const float* angles = p.angles.as<const float>() + t * p.angles.stride[0];
  if (g < 0) {
    normalize_and_rotate(head_of(p.q, t, row), head, p.q_norm, angles, dim, p.epsilon, aligned);
  } else if (g < kv_heads) {
    normalize_and_rotate(head_of(p.keys, t, g), head, p.k_norm, angles, dim, p.epsilon, aligned);
  } else if (g < 2 * kv_heads) {
    float* to = head_of(p.values, t, g - kv_heads);
    for_elements<4>(dim, aligned,
                    [&](int64_t i, auto elements) { store(to + i, load(head + i, elements), elements); });
  } else if (g < 3 * kv_heads && p.utilities) {
    const float* hidden = qkv + (heads + 2 * kv_heads) * dim;
    const float utility = predict(hidden, p.weight, p.bias, g - 2 * kv_heads, p.log, aligned);
    if (threadIdx.x == 0) p.utilities.as<float>()[t * p.utilities.stride[0] + g - 2 * kv_heads] = utility;
  }
}

}  // namespace

Status prepare_pairs(const PreparePairsParams& params, Execution& execution) {
  Context& on = context(execution);
  if (params.q.shape[0] == 0) return Status();
  bool aligned = params.q.shape[2] % 4 == 0;
  for (const View* view : {&params.q, &params.keys, &params.values, &params.qkv, &params.angles,
                           &params.q_norm, &params.k_norm, &params.weight})
    aligned = aligned && starts_aligned(*view, 4);
  const int64_t rows = params.q.shape[1] + (params.utilities ? 3 : 2) * params.keys.shape[1];
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(params.q.shape[0]), blocks_for(rows, kWarps));
  shape.block = dim3(32, kWarps);
  shape.early = on.launches_overlap();
  return check(launch(on.stream(), shape, prepare_pairs_kernel, params, aligned), "prepare_pairs");
}

}  // namespace cuda
}  // namespace spkv
