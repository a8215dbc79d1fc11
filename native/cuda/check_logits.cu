#include "cuda/check_logits.h"

#include "cuda/bad_logit.cuh"
#include "cuda/common/elements.cuh"
#include "cuda/common/launch.cuh"
#include "cuda/common/reduce.cuh"

namespace spkv {
namespace cuda {
namespace {

constexpr int kThreads = 256, kWidth = 4;
constexpr int64_t kChunk = 8192;  // of a row, for a block

// Block (t, i) has chunk i of row t.
__global__ void __launch_bounds__(kThreads)
    check_logits_kernel(View logits, bool aligned, Fault* fault, int site) {
  const int64_t t = blockIdx.x, begin = blockIdx.y * kChunk, left = logits.shape[1] - begin;
  const float* row = logits.as<const float>() + t * logits.stride[0] + begin;
  uint32_t bad = kGoodLogits;
  for_elements<kWidth>(left < kChunk ? left : kChunk, aligned, [&](int64_t i, auto elements) {
    const auto pack = load(row + i, elements);
#pragma unroll
    for (int j = 0; j < static_cast<int>(sizeof pack.at / sizeof pack.at[0]); j++) {
      if (is_finite(pack.at[j])) continue;
      bad = Least()(bad, bad_logit(static_cast<uint32_t>(begin + i + j), pack.at[j]));
    }
  });
  bad = block_reduce(bad, kGoodLogits, Least());
  if (threadIdx.x == 0 && bad != kGoodLogits) raise_fault(fault, site, t, bad);
}

}  // namespace

Status check_logits(const View& logits, Context& on) {
  if (logits.size() == 0) return Status();
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(logits.shape[0]), blocks_for(logits.shape[1], kChunk));
  shape.block = dim3(threads_for(blocks_for(logits.shape[1], kWidth), kThreads));
  return check(launch(on.stream(), shape, check_logits_kernel, logits, starts_aligned(logits, kWidth),
                      on.fault(), on.fault_site("insert logits", describe_logit)),
               "checking logits");
}

}  // namespace cuda
}  // namespace spkv
