#include "cuda/common/elements.cuh"
#include "cuda/common/launch.cuh"
#include "cuda/common/strided.cuh"
#include "cuda/context.h"
#include "cuda/operations.h"

namespace spkv {
namespace cuda {
namespace {

constexpr int kThreads = 256;

template <typename T>
__global__ void __launch_bounds__(kThreads) fill_kernel(Strided out, float value, int64_t size) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < size) static_cast<T*>(out.data)[out.offset(i)] = Convert<T, float>::apply(value);
}

}  // namespace

Status fill(const FillParams& params, Execution& execution) {
  Context& on = context(execution);
  View out = params.out, same = params.out;
  if (out.size() == 0) return Status();
  merge_contiguous(&out, &same);
  LaunchShape shape;
  shape.grid = dim3(blocks_for(out.size(), kThreads));
  shape.block = dim3(kThreads);
  const auto kernel = out.dtype == DType::kBF16 ? fill_kernel<uint16_t> : fill_kernel<float>;
  return check(launch(on.stream(), shape, kernel, Strided(out), params.value, out.size()), "fill");
}

}  // namespace cuda
}  // namespace spkv
