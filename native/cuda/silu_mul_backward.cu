#include "cuda/common/elements.cuh"
#include "cuda/common/launch.cuh"
#include "cuda/context.h"
#include "cuda/operations.h"

namespace spkv {
namespace cuda {
namespace {

constexpr int kThreads = 256, kWidth = 4, kTile = kThreads * kWidth;

// Block (t, i) makes tile i of row t.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    silu_mul_backward_kernel(SiluMulBackwardParams params, bool aligned) {
  const int64_t t = blockIdx.x, start = int64_t{blockIdx.y} * kTile, left = params.dy.shape[1] - start;
  const auto row = [&](const View& view) { return view.as<T>() + t * view.stride[0] + start; };
  T *d_gate = row(params.d_gate), *d_up = row(params.d_up);
  T* activated = params.activated ? row(params.activated) : nullptr;
  const T *dy = row(params.dy), *gate = row(params.gate), *up = row(params.up);
  for_elements<kWidth>(left < kTile ? left : kTile, aligned, [&](int64_t i, auto elements) {
    const auto d = load_floats(dy + i, elements);
    auto a = load_floats(gate + i, elements), b = load_floats(up + i, elements), c = b;
#pragma unroll
    for (int j = 0; j < static_cast<int>(sizeof d.at / sizeof d.at[0]); j++) {
      const float s = 1.0f / (1.0f + expf(-a.at[j])), silu = a.at[j] * s;
      c.at[j] = silu * b.at[j];
      a.at[j] = d.at[j] * b.at[j] * s * (1.0f + a.at[j] * (1.0f - s));
      b.at[j] = d.at[j] * silu;
    }
    store(d_gate + i, convert<T>(a), elements);
    store(d_up + i, convert<T>(b), elements);
    if (activated) store(activated + i, convert<T>(c), elements);
  });
}

}  // namespace

Status silu_mul_backward(const SiluMulBackwardParams& params, Execution& execution) {
  Context& on = context(execution);
  const View& dy = params.dy;
  if (dy.size() == 0) return Status();
  bool aligned = !params.activated || starts_aligned(params.activated, kWidth);
  for (const View* view : {&params.d_gate, &params.d_up, &dy, &params.gate, &params.up})
    aligned = aligned && starts_aligned(*view, kWidth);
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(dy.shape[0]), blocks_for(dy.shape[1], kTile));
  shape.block = dim3(threads_for(blocks_for(dy.shape[1], kWidth), kThreads));
  const auto kernel =
      dy.dtype == DType::kBF16 ? silu_mul_backward_kernel<uint16_t> : silu_mul_backward_kernel<float>;
  return check(launch(on.stream(), shape, kernel, params, aligned), "silu_mul_backward");
}

}  // namespace cuda
}  // namespace spkv
