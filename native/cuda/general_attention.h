// Attention over the cache for every shape, dtype and page layout, in f32 throughout: see attention_tile.cuh.
#pragma once

#include "cuda/cache.h"
#include "cuda/context.h"
#include "ops/attention.h"

namespace spkv {
namespace cuda {

Status general_attention(const AttentionParams& params, const Step& step, const CacheState& cache,
                         Context& context);

}  // namespace cuda
}  // namespace spkv
