// Gated attention on CUDA: which kernels do it.
#include "ops/gated_attention.h"

#include "core/step_checks.h"
#include "cuda/gated_general.h"
#include "cuda/gated_hopper.h"

namespace spkv {
namespace cuda {
namespace {

template <typename Params>
Status run(const Params& params, Context& context) {
  Status status;
  const int32_t* offsets = context.host_values(params.offsets, &status);
  if (!offsets) return status;
  SPKV_RETURN_IF_ERROR(check_offsets(offsets, params.offsets.shape[0] - 1, params.q.shape[0]));
  if (params.q.shape[0] == 0) return Status();
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
