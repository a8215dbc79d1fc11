#include "ops/log_probabilities.h"

#include "cuda/target_logits.cuh"

namespace spkv {
namespace cuda {
namespace {

__global__ void __launch_bounds__(kMostRowThreads)
    log_probabilities_kernel(LogProbabilitiesParams params, bool aligned, Fault* fault, int site) {
  const int64_t t = blockIdx.x, vocabulary = params.logits.shape[1];
  float* out = params.out.as<float>() + t * params.out.stride[0];
  const int32_t target = params.targets.as<const int32_t>()[t * params.targets.stride[0]];
  if (target < 0 || target >= vocabulary) {
    if (threadIdx.x != 0) return;
    if (target < 0) *out = 0;
    if (target >= vocabulary) raise_fault(fault, site, t, static_cast<uint32_t>(target));
    return;
  }
  const float* row = params.logits.as<const float>() + t * params.logits.stride[0];
  const RowTotal sum = row_total<float>(row, vocabulary, aligned);
  if (threadIdx.x == 0)
    *out = static_cast<float>(static_cast<double>(row[target]) - sum.largest - log(sum.total));
}

}  // namespace

Status log_probabilities(const LogProbabilitiesParams& params, Execution& execution) {
  Context& on = context(execution);
  const int64_t tokens = params.logits.shape[0], vocabulary = params.logits.shape[1];
  if (tokens == 0) return Status();
  const int site = target_fault_site(on, "log_probabilities", vocabulary);
  return check(launch(on.stream(), a_block_to_a_row(tokens, vocabulary), log_probabilities_kernel, params,
                      starts_aligned(params.logits, kLogitsWidth), on.fault(), site),
               "log_probabilities");
}

}  // namespace cuda
}  // namespace spkv
