// Gated attention in f32 on any GPU and for any head size up to 256. Tensors in bf16 are widened first.
#pragma once

#include "cuda/context.h"
#include "ops/gated_attention.h"

namespace spkv {
namespace cuda {

// At least one token.
Status gated_general(const GatedAttentionParams& params, Context& context);
Status gated_general(const GatedAttentionBackwardParams& params, Context& context);

// The backward with everything in f32; `products` [T, H] is room for what it needs for itself.
Status gated_general_backward(const GatedAttentionBackwardParams& params, float* products, Context& context);

}  // namespace cuda
}  // namespace spkv
