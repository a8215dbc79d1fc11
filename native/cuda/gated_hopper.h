// Gated attention on GPUs of compute capability 9.0, in bf16 on the matrix units.
#pragma once

#include "cuda/context.h"
#include "ops/gated_attention.h"

namespace spkv {
namespace cuda {

// Whether they are for gated_hopper: bf16, D 64 or 128, rows that the copy engine takes, and the device is
// not exact.
bool gated_hopper_takes(const GatedAttentionParams& params, const Context& context);
bool gated_hopper_takes(const GatedAttentionBackwardParams& params, const Context& context);

// `offsets` are those of params, on the host.
Status gated_hopper(const GatedAttentionParams& params, const int32_t* offsets, Context& context);
Status gated_hopper(const GatedAttentionBackwardParams& params, const int32_t* offsets, Context& context);

}  // namespace cuda
}  // namespace spkv
