// What thresholds would keep: of the pairs of each document that have left the window of some query in it,
//
//   counts[g, n] += |{ s : s + window < end of its document, utilities[s, g] >= thresholds[n] }|
//
// With one threshold it gives the density of a layer, with many the distribution of its utilities.
#pragma once

#include "core/stream.h"
#include "core/view.h"

namespace spkv {

struct CountKeptParams {
  View counts;      // [G, N] i32, added to
  View utilities;   // [T, G] f32
  View thresholds;  // [N] f32
  View offsets;     // [B + 1] i32, as for gated_attention
  int64_t window = 1;
};

}  // namespace spkv
