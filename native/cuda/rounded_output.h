// For operations whose kernels write f32 and whose `out` [T, H, D] may be bf16.
#pragma once

#include "cuda/context.h"
#include "cuda/operations.h"

namespace spkv {
namespace cuda {

// Lets `operation` write into scratch memory, and rounds that into the bf16 tensor that `params` has.
template <typename Params>
Status round_output(const Params& params, Execution& execution,
                    Status (*operation)(const Params&, Execution&)) {
  Params wide = params;
  View& out = wide.out;
  Status status;
  out.data = context(execution).scratch(Scratch::kConverted, out.size() * 4, &status);
  if (!out.data) return status;
  out.dtype = DType::kF32;
  out.stride[1] = out.shape[2];
  out.stride[0] = out.shape[1] * out.shape[2];
  SPKV_RETURN_IF_ERROR(operation(wide, execution));
  return copy({params.out, out}, execution);
}

}  // namespace cuda
}  // namespace spkv
