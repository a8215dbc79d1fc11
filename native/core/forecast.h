// How many pages a sequence will take from the pool. Pairs leave the window as many steps after they came as
// it is long, and whether they are kept has been known all that time: so the answer is exact for as many
// tokens. Those that both come and leave within the forecast count as kept.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/cache.h"

namespace spkv {

// Adds what one list takes: (*pages)[i] for i + 1 more tokens. `keep(p)` says whether the pair at position p,
// which is in the ring, is to be kept; `shared(i)` whether others hold page i of the list, so that the first
// write to it takes a copy.
template <typename Keep, typename Shared>
void forecast_list(const CacheGeometry& g, int64_t length, int64_t kept, const Keep& keep,
                   const Shared& shared, std::vector<int32_t>* pages) {
  auto pages_for = [](int64_t pairs) { return (pairs + kPageTokens - 1) / kPageTokens; };
  int64_t slots = g.ring_slots(), leaving = 0, copies = 0;
  std::vector<uint8_t> copied(static_cast<size_t>(g.ring_pages()));
  bool last_shared = kept % kPageTokens != 0 && shared(g.ring_pages() + kept / kPageTokens);
  for (size_t i = 0; i < pages->size(); i++) {
    int64_t position = length + static_cast<int64_t>(i), leaves = position - g.window;
    int64_t page = position % slots / kPageTokens;
    if (!copied[static_cast<size_t>(page)]) {
      copied[static_cast<size_t>(page)] = 1;
      copies += shared(page);
    }
    if (leaves >= 0) leaving += leaves >= length || keep(leaves);
    int64_t fresh = pages_for(kept + leaving) - pages_for(kept) + (leaving > 0 && last_shared);
    (*pages)[i] += static_cast<int32_t>(fresh + copies);
  }
}

}  // namespace spkv
