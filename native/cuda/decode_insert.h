// Compacted insertion at the end of a decode step: one new pair per sequence, all layers in one launch. The
// CUDA form of ops/insert.h for steps of one token.
//
// In every list the pair that leaves the window is appended to the kept pages if it is to be kept, with a
// fresh page where the last one is full; then the new pair takes its ring slot. Nothing changes if the pool
// has too few pages for all lists together, or a new number is not finite (the attention of this step found
// out), or an earlier step failed: see StepStatus.
#pragma once

#include <cuda_bf16.h>

#include "cuda/step_plan.h"

namespace spkv {
namespace cuda {

struct DecodeInsertParams {
  CacheState cache;
  StepPlan plan;                // of this step
  const __nv_bfloat16* keys;    // [L, B, G, D], layers and sequences at the strides below
  const __nv_bfloat16* values;  // [L, B, G, D]
  const float* utilities;       // [L, B, G], or null: everything is kept
  int64_t layer_stride;         // of keys and values, in elements
  int64_t kv_stride;            // from one sequence to the next
};

cudaError_t decode_insert(const DecodeInsertParams& params, cudaStream_t stream);

}  // namespace cuda
}  // namespace spkv
