// Compacted insertion at the end of a decode step: one new pair per sequence, all layers in one launch. The
// CUDA form of ops/insert.h for steps of one token, on swizzled pages that no other sequence shares.
//
// In every list the pair that leaves the window is appended to the kept pages if it is to be kept, with a
// fresh page where the last one is full; then the new pair takes its ring slot. Nothing changes if the pool
// has too few pages for all lists together, or a fault has been raised before.
#pragma once

#include "cuda/new_pairs.h"
#include "cuda/step_plan.h"

namespace spkv {
namespace cuda {

struct DecodeInsertParams {
  CacheState cache;
  StepPlan plan;   // of this step
  NewPairs pairs;  // token b is that of sequence b
  InsertFaults faults;
};

cudaError_t decode_insert(const DecodeInsertParams& params, cudaStream_t stream);

}  // namespace cuda
}  // namespace spkv
