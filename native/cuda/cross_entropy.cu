#include <string>

#include "cuda/common/elements.cuh"
#include "cuda/common/fault.cuh"
#include "cuda/common/launch.cuh"
#include "cuda/common/reduce.cuh"
#include "cuda/context.h"
#include "cuda/operations.h"

namespace spkv {
namespace cuda {
namespace {

constexpr unsigned kMostThreads = 512;
constexpr int kWidth = 4;

// A block to a row, which it reads three times: for its largest logit, for the sum, and to write the
// gradient. After the first time it is in the cache. The exponentials of a thread are added in double.
template <typename T>
__global__ void __launch_bounds__(kMostThreads)
    cross_entropy_kernel(CrossEntropyParams params, bool aligned, Fault* fault, int site) {
  const int64_t t = blockIdx.x, vocabulary = params.logits.shape[1];
  float* loss = params.losses.as<float>() + t * params.losses.stride[0];
  const int32_t target = params.targets.as<const int32_t>()[t * params.targets.stride[0]];
  T* row = params.logits.as<T>() + t * params.logits.stride[0];
  if (target >= vocabulary) {
    if (threadIdx.x == 0) raise_fault(fault, site, t, static_cast<uint32_t>(target));
    return;
  }
  if (target < 0) {
    for (int64_t i = threadIdx.x; i < vocabulary; i += blockDim.x) row[i] = T{0};
    if (threadIdx.x == 0) *loss = 0;
    return;
  }
  float largest = -INFINITY;
  for_elements<kWidth>(vocabulary, aligned, [&](int64_t i, auto elements) {
    for (float x : load_floats(row + i, elements).at) largest = fmaxf(largest, x);
  });
  largest = block_reduce(largest, -INFINITY, Largest());
  double total = 0;
  for_elements<kWidth>(vocabulary, aligned, [&](int64_t i, auto elements) {
    float sum = 0;
    for (float x : load_floats(row + i, elements).at) sum += expf(x - largest);
    total += static_cast<double>(sum);
  });
  total = block_reduce(total, 0.0, Sum());
  const float own = Convert<float, T>::apply(row[target]), scale = static_cast<float>(params.factor / total);
  __syncthreads();  // all have read the target's logit
  for_elements<kWidth>(vocabulary, aligned, [&](int64_t i, auto elements) {
    auto x = load_floats(row + i, elements);
#pragma unroll
    for (int j = 0; j < static_cast<int>(sizeof x.at / sizeof x.at[0]); j++)
      x.at[j] = expf(x.at[j] - largest) * scale - (i + j == target ? params.factor : 0.0f);
    store(row + i, convert<T>(x), elements);
  });
  if (threadIdx.x == 0) *loss = static_cast<float>(log(total) + largest - static_cast<double>(own));
}

}  // namespace

Status cross_entropy(const CrossEntropyParams& params, Execution& execution) {
  Context& on = context(execution);
  const int64_t tokens = params.logits.shape[0], vocabulary = params.logits.shape[1];
  if (tokens == 0) return Status();
  const int site = on.fault_site(
      "cross_entropy targets below " + std::to_string(vocabulary), [vocabulary](int64_t t, uint32_t target) {
        return fail(Code::kOutOfRange, "Expected an id below %lld for targets[%lld] but received %d",
                    static_cast<long long>(vocabulary), static_cast<long long>(t),
                    static_cast<int32_t>(target));
      });
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(tokens));
  shape.block = dim3(threads_for(blocks_for(vocabulary, kWidth), kMostThreads));
  const auto kernel =
      params.logits.dtype == DType::kBF16 ? cross_entropy_kernel<uint16_t> : cross_entropy_kernel<float>;
  return check(
      launch(on.stream(), shape, kernel, params, starts_aligned(params.logits, kWidth), on.fault(), site),
      "cross_entropy");
}

}  // namespace cuda
}  // namespace spkv
