#include "ops/log_probabilities.h"

#include "cuda/common/elements.cuh"
#include "cuda/common/fault.cuh"
#include "cuda/common/launch.cuh"
#include "cuda/common/reduce.cuh"
#include "cuda/context.h"

namespace spkv {
namespace cuda {
namespace {

constexpr unsigned kMostThreads = 512;
constexpr int kWidth = 4;

// A block to a row. The exponentials of a thread are added in double: a row has up to hundreds of thousands.
__global__ void __launch_bounds__(kMostThreads)
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

  float largest = -INFINITY;
  for_elements<kWidth>(vocabulary, aligned, [&](int64_t i, auto elements) {
    for (float x : load(row + i, elements).at) largest = fmaxf(largest, x);
  });
  largest = block_reduce(largest, -INFINITY, Largest());
  double total = 0;
  for_elements<kWidth>(vocabulary, aligned, [&](int64_t i, auto elements) {
    float sum = 0;
    for (float x : load(row + i, elements).at) sum += expf(x - largest);
    total += static_cast<double>(sum);
  });
  total = block_reduce(total, 0.0, Sum());
  if (threadIdx.x == 0) *out = static_cast<float>(static_cast<double>(row[target]) - largest - log(total));
}

}  // namespace

Status log_probabilities(const LogProbabilitiesParams& params, Execution& execution) {
  Context& on = context(execution);
  const int64_t tokens = params.logits.shape[0], vocabulary = params.logits.shape[1];
  if (tokens == 0) return Status();
  const int site = on.fault_site("log_probabilities targets below " + std::to_string(vocabulary),
                                 [vocabulary](int64_t t, uint32_t target) {
                                   return fail(Code::kOutOfRange,
                                               "Expected an id below %lld for targets[%lld] but received %d",
                                               static_cast<long long>(vocabulary), static_cast<long long>(t),
                                               static_cast<int32_t>(target));
                                 });
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(tokens));
  shape.block = dim3(threads_for(blocks_for(vocabulary, kWidth), kMostThreads));
  return check(launch(on.stream(), shape, log_probabilities_kernel, params,
                      starts_aligned(params.logits, kWidth), on.fault(), site),
               "log_probabilities");
}

}  // namespace cuda
}  // namespace spkv
