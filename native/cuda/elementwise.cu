#include "ops/elementwise.h"

#include "cuda/common/elements.cuh"
#include "cuda/common/launch.cuh"
#include "cuda/common/ptx.cuh"
#include "cuda/common/strided.cuh"
#include "cuda/context.h"

namespace spkv {
namespace cuda {
namespace {

constexpr int kThreads = 256, kWidth = 4, kTile = kThreads * kWidth;

struct SiluMul {
  __device__ float operator()(float gate, float up) const { return gate / (1.0f + expf(-gate)) * up; }
};
struct Add {
  __device__ float operator()(float a, float b) const { return a + b; }
};

// out = combine(a, b) for matrices of one shape. Block (t, i) makes tile i of row t.
template <typename Out, typename In, typename Combine>
__global__ void __launch_bounds__(kThreads) combine_kernel(View out, View a, View b, bool aligned) {
  allow_next_launch();
  wait_for_previous_launch();
  const int64_t t = blockIdx.x, start = int64_t{blockIdx.y} * kTile, left = out.shape[1] - start;
  Out* to = out.as<Out>() + t * out.stride[0] + start;
  const In* first = a.as<const In>() + t * a.stride[0] + start;
  const In* second = b.as<const In>() + t * b.stride[0] + start;
  for_elements<kWidth>(left < kTile ? left : kTile, aligned, [&](int64_t i, auto elements) {
    auto x = load_floats(first + i, elements);
    const auto y = load_floats(second + i, elements);
#pragma unroll
    for (int j = 0; j < static_cast<int>(sizeof x.at / sizeof x.at[0]); j++)
      x.at[j] = Combine()(x.at[j], y.at[j]);
    store(to + i, convert<Out>(x), elements);
  });
}

template <typename Out, typename In, typename Combine>
Status combine(const View& out, const View& a, const View& b, Execution& execution, const char* name) {
  Context& on = context(execution);
  if (out.size() == 0) return Status();
  const bool aligned = starts_aligned(out, kWidth) && starts_aligned(a, kWidth) && starts_aligned(b, kWidth);
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(out.shape[0]), blocks_for(out.shape[1], kTile));
  shape.block = dim3(threads_for(blocks_for(out.shape[1], kWidth), kThreads));
  shape.early = on.launches_overlap();
  return check(launch(on.stream(), shape, combine_kernel<Out, In, Combine>, out, a, b, aligned), name);
}

// A thread copies N elements of a row.
template <typename To, typename From, int N>
__global__ void __launch_bounds__(kThreads) copy_kernel(Strided out, Strided x, int64_t items) {
  const int64_t item = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (item >= items) return;
  To* to = static_cast<To*>(out.data) + out.offset(item * N);
  const From* from = static_cast<const From*>(x.data) + x.offset(item * N);
  constexpr Elements<N> kAligned = {true};
  store(to, convert<To>(load(from, kAligned)), kAligned);
}

// 16 bytes at a time on the wider side where all rows are made of aligned such pieces, else single elements.
template <typename To, typename From>
Status copy_elements(View out, View x, Context& on) {
  constexpr int kMost = 16 / static_cast<int>(sizeof(To) > sizeof(From) ? sizeof(To) : sizeof(From));
  merge_contiguous(&out, &x);
  const bool wide =
      out.shape[out.rank - 1] % kMost == 0 && starts_aligned(out, kMost) && starts_aligned(x, kMost);
  const int64_t items = out.size() / (wide ? kMost : 1);
  LaunchShape shape;
  shape.grid = dim3(blocks_for(items, kThreads));
  shape.block = dim3(kThreads);
  const auto kernel = wide ? copy_kernel<To, From, kMost> : copy_kernel<To, From, 1>;
  return check(launch(on.stream(), shape, kernel, Strided(out), Strided(x), items), "copy");
}

}  // namespace

Status silu_mul(const SiluMulParams& params, Execution& execution) {
  const auto& [out, gate, up] = params;
  const bool narrow = gate.dtype == DType::kBF16;
  if (out.dtype == DType::kBF16) {
    return narrow ? combine<uint16_t, uint16_t, SiluMul>(out, gate, up, execution, "silu_mul")
                  : combine<uint16_t, float, SiluMul>(out, gate, up, execution, "silu_mul");
  }
  return narrow ? combine<float, uint16_t, SiluMul>(out, gate, up, execution, "silu_mul")
                : combine<float, float, SiluMul>(out, gate, up, execution, "silu_mul");
}

Status add(const AddParams& params, Execution& execution) {
  return combine<float, float, Add>(params.out, params.a, params.b, execution, "add");
}

Status copy(const CopyParams& params, Execution& execution) {
  const View &out = params.out, &x = params.x;
  Context& on = context(execution);
  on.overwritten(out);
  if (out.size() == 0) return Status();
  if (out.dtype == x.dtype) {
    switch (dtype_bytes(out.dtype)) {
      case 1:
        return copy_elements<uint8_t, uint8_t>(out, x, on);
      case 2:
        return copy_elements<uint16_t, uint16_t>(out, x, on);
      default:
        return copy_elements<uint32_t, uint32_t>(out, x, on);
    }
  }
  if (out.dtype == DType::kF32 && x.dtype == DType::kBF16) return copy_elements<float, uint16_t>(out, x, on);
  if (out.dtype == DType::kBF16 && x.dtype == DType::kF32) return copy_elements<uint16_t, float>(out, x, on);
  return fail(Code::kDtype, "Cannot copy %s to %s", dtype_name(x.dtype), dtype_name(out.dtype));
}

}  // namespace cuda
}  // namespace spkv
