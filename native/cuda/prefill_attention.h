// Attention of a step whose sequences bring several new tokens (ops/attention.h), for caches with swizzled
// pages. Queries, keys, values and weights are multiplied in bf16, sums are f32. Pages in fp8 are made into
// bf16 pages first, which takes as much memory as these have.
//
// Time follows the pairs that are kept, not the length of the text. With T pairs cached and n new ones, the
// keys of a list fall into three parts:
//
//   local    positions [T - min(T, window), T + n): the live pairs of the ring and the new ones, in order
//   closed   those of the local pairs that are kept, closed up: a query sees a prefix of them behind its
//   window cached   the kept pages of the cache; every query sees all of them
//
// A tile of queries walks the local pages around its windows, masked pair by pair, and then whole pages of
// the other two parts.
#pragma once

#include "core/status.h"
#include "core/view.h"
#include "cuda/cache_state.h"
#include "cuda/context.h"

namespace spkv {
namespace cuda {

struct PrefillAttentionParams {
  View out;        // [T, H, D] f32
  View q;          // [T, H, D] f32
  View keys;       // [T, G, D] f32
  View values;     // [T, G, D] f32
  View utilities;  // [T, G] f32, or absent
  CacheState cache;
  const int32_t* slots = nullptr;    // [B], on the device
  const int32_t* offsets = nullptr;  // [B + 1], on the device
  int batch = 0;                     // B
  int64_t tokens = 0;                // T
  int64_t longest = 0;               // new tokens of the sequence with the most
  int layer = 0;
  int heads = 0;  // H
  float scale = 1;
  int64_t kept_pages = 0;  // that the lists of the step have at most; for an fp8 cache
};

// Whether this is a step for prefill_attention: pages are swizzled, scale > 0, and indices fit 32 bits.
bool prefill_takes(const PrefillAttentionParams& params);
Status prefill_attention(const PrefillAttentionParams& params, Context& context);

}  // namespace cuda
}  // namespace spkv
