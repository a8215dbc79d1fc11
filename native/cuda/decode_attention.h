// Attention of a decode step: one new token per sequence, over its lists and the token itself. The CUDA form
// of ops/attention.h for steps of one token; bf16 in, keys and values as the cache has them, f32 accumulation
// and result.
//
//   out[b, h, :] = sum_s softmax_s(scale * q[b, h, :] . k[s, g, :]) v[s, g, :],   g = h / (H / G)
//
// over the kept pairs, the pairs of the ring that are less than `window` old, the one that is exactly that
// old if it is to be kept, and the new token's own pair, which is not in the cache yet. What lies in unused
// slots is never looked at, be it NaN. A NaN in a sequence's own numbers comes out as NaN. The result is the
// same bit for bit in every run: where a list is cut, the parts are merged in order. Where that is depends
// on the lengths of all lists of the step: in another batch a sequence's result is the same to rounding only.
#pragma once

#include <cuda_bf16.h>

#include "cuda/step_plan.h"

namespace spkv {
namespace cuda {

struct DecodeAttentionParams {
  void* out = nullptr;               // [B, H, D] f32 with these distances; any alignment
  int64_t out_stride = 0;            // of sequences
  int64_t out_head_stride = 0;       // of heads
  bool bf16_out = false;             // `out` is bf16 instead
  float* log_sum = nullptr;          // [B, H] natural log of the softmax's denominator, or null
  const __nv_bfloat16* q = nullptr;  // [B, H, D], sequences q_stride elements apart, a multiple of 8
  const void* keys = nullptr;        // [B, G] new rows, sequences kv_stride bytes apart, a multiple of 16
  const void* values = nullptr;      // [B, G] likewise
  int64_t q_stride = 0;
  int64_t kv_stride = 0;
  CacheState cache;
  StepPlan plan;
  float* partials = nullptr;    // decode_partial_floats(...)
  int32_t* arrivals = nullptr;  // [B * G] zero before the first launch; every launch leaves it zero
  int layer = 0;
  int heads = 0;  // H = G * group, group <= 16
  float scale = 1;
  // The launch may begin before the one ahead of it has ended, and reads pages before that: so that one must
  // neither be the plan nor change the cache.
  bool overlap_previous = false;
};

// Bytes of a new key or value: D bf16 numbers, or D fp8 numbers, their scale, and 15 bytes of any content.
constexpr int64_t decode_row_bytes(int head_dim, DType dtype) {
  return dtype == DType::kFP8 ? head_dim + 16 : 2 * head_dim;
}

// One block per SM; the plan has as many blocks.
int64_t decode_partial_floats(int head_dim, int group, int blocks);

cudaError_t decode_attention(const DecodeAttentionParams& params, cudaStream_t stream);

}  // namespace cuda
}  // namespace spkv
