// Compacted cache insertion: ends a step by adding its new pairs, of all layers at once, to the sequences.
//
// With T cached and n new tokens in a sequence, the pairs at positions [T - window, T + n - window) leave the
// window; of these, those with utility >= threshold are appended to the kept pages of their list. Then the
// last min(n, ringSlots) new pairs take their ring slots and the sequence's length becomes T + n.
//
// This is where pairs are rounded to the cache's dtype, once: what moves from the ring to the kept pages, is
// saved, restored or shared by forks, moves as bytes.
//
// All or nothing: the pages that all lists of all sequences need (fresh ones and copies of shared ones) are
// counted first; if the pool has too few, kPoolExhausted and nothing has changed. The same holds for a key,
// value or utility that is not a finite number: kNonFinite, naming the layer. And for a logit of the step,
// where they are given: kNonFinite, naming the first row that has one, and its column.
#pragma once

#include "core/cache.h"
#include "core/stream.h"
#include "core/view.h"

namespace spkv {

struct InsertParams {
  Cache* cache = nullptr;
  View keys;       // [L, T, G, D] f32, after the rotary embedding
  View values;     // [L, T, G, D] f32
  View utilities;  // [L, T, G] f32, or absent: everything is kept
  View slots;      // [B] i32
  View offsets;    // [B + 1] i32
  View logits;     // [N, V] f32, or absent: only checked
};

// positions[i] of every new token, from the sequences' lengths.
struct PositionsParams {
  View out;  // [T] i32
  Cache* cache = nullptr;
  View slots;    // [B] i32
  View offsets;  // [B + 1] i32
};

}  // namespace spkv
