#include "ops/count_kept.h"

#include "core/step_checks.h"
#include "cuda/common/launch.cuh"
#include "cuda/context.h"
#include "cuda/documents.h"
#include "cuda/operations.h"

namespace spkv {
namespace cuda {
namespace {

constexpr int kThreads = 256;

// Block (i, g) takes kThreads tokens of KV head g; a warp counts its own before it adds them.
__global__ void __launch_bounds__(kThreads) count_kept_kernel(CountKeptParams params, int documents) {
  const int64_t s = int64_t{blockIdx.x} * kThreads + threadIdx.x, g = blockIdx.y,
                tokens = params.utilities.shape[0];
  const bool counts =
      s < tokens && s + params.window < document_end(params.offsets.as<const int32_t>(), documents, s);
  const float u = s < tokens ? params.utilities.as<const float>()[s * params.utilities.stride[0] + g] : 0.0f;
  int32_t* row = params.counts.as<int32_t>() + g * params.counts.stride[0];
  for (int64_t n = 0; n < params.counts.shape[1]; n++) {
    const unsigned kept = __ballot_sync(~0u, counts && u >= params.thresholds.as<const float>()[n]);
    if (threadIdx.x % 32 == 0 && kept != 0) atomicAdd(row + n, __popc(kept));
  }
}

}  // namespace

Status count_kept(const CountKeptParams& params, Execution& execution) {
  Context& on = context(execution);
  const int64_t tokens = params.utilities.shape[0], documents = params.offsets.shape[0] - 1;
  Status status;
  const int32_t* offsets = on.host_values(params.offsets, &status);
  if (!offsets) return status;
  SPKV_RETURN_IF_ERROR(check_offsets(offsets, documents, tokens));
  on.overwritten(params.counts);
  if (tokens == 0 || params.counts.size() == 0) return Status();
  LaunchShape shape;
  shape.grid = dim3(blocks_for(tokens, kThreads), static_cast<unsigned>(params.counts.shape[0]));
  shape.block = dim3(kThreads);
  return check(launch(on.stream(), shape, count_kept_kernel, params, static_cast<int>(documents)),
               "count_kept");
}

}  // namespace cuda
}  // namespace spkv
