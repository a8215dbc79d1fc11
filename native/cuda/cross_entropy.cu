#include "cuda/operations.h"
#include "cuda/target_logits.cuh"

namespace spkv {
namespace cuda {
namespace {

// Reads a row three times: for its largest logit, for the sum, and to write the gradient. After the first
// time it is in the cache.
template <typename T>
__global__ void __launch_bounds__(kMostRowThreads)
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
  const RowTotal sum = row_total<T>(row, vocabulary, aligned);
  const float own = Convert<float, T>::apply(row[target]),
              scale = static_cast<float>(params.factor / sum.total);
  __syncthreads();  // all have read the target's logit
  for_elements<kLogitsWidth>(vocabulary, aligned, [&](int64_t i, auto elements) {
    auto x = load_floats(row + i, elements);
#pragma unroll
    for (int j = 0; j < static_cast<int>(sizeof x.at / sizeof x.at[0]); j++)
      x.at[j] = expf(x.at[j] - sum.largest) * scale - (i + j == target ? params.factor : 0.0f);
    store(row + i, convert<T>(x), elements);
  });
  if (threadIdx.x == 0) *loss = static_cast<float>(log(sum.total) + sum.largest - static_cast<double>(own));
}

}  // namespace

Status cross_entropy(const CrossEntropyParams& params, Execution& execution) {
  Context& on = context(execution);
  const int64_t tokens = params.logits.shape[0], vocabulary = params.logits.shape[1];
  if (tokens == 0) return Status();
  const int site = target_fault_site(on, "cross_entropy", vocabulary);
  const auto kernel =
      params.logits.dtype == DType::kBF16 ? cross_entropy_kernel<uint16_t> : cross_entropy_kernel<float>;
  return check(launch(on.stream(), a_block_to_a_row(tokens, vocabulary), kernel, params,
                      starts_aligned(params.logits, kLogitsWidth), on.fault(), site),
               "cross_entropy");
}

}  // namespace cuda
}  // namespace spkv
