// Gated attention on CUDA: which kernels do it.
#include "ops/gated_attention.h"

#include "cuda/gated_general.h"
#include "cuda/gated_hopper.h"

namespace spkv {
namespace cuda {
namespace {

template <typename Params>
Status run(const Params& params, Context& context) {
  int64_t tokens = params.q.shape[0], documents = params.offsets.shape[0] - 1;
  Status status;
  const int32_t* offsets = context.host_values(params.offsets, &status);
  if (!offsets) return status;
  bool rising = offsets[0] == 0 && offsets[documents] == tokens;
  for (int64_t b = 0; b < documents; b++) rising = rising && offsets[b] <= offsets[b + 1];
  if (!rising)
    return fail(Code::kInvalidArgument, "Expected offsets to rise from 0 to %lld, the number of tokens",
                static_cast<long long>(tokens));
  if (tokens == 0) return Status();
  return gated_hopper_takes(params, context) ? gated_hopper(params, offsets, context)
                                             : gated_general(params, context);
}

}  // namespace

Status gated_attention(const GatedAttentionParams& params, Execution& execution) {
  return run(params, context(execution));
}

Status gated_attention_backward(const GatedAttentionBackwardParams& params, Execution& execution) {
  return run(params, context(execution));
}

}  // namespace cuda
}  // namespace spkv
