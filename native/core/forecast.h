// How many pages a sequence will take from the pool. Pairs leave the window as many steps after they came as
// it is long, and whether they are kept has been known all that time: so the answer is exact for as many
// tokens. Those that both come and leave within the forecast count as kept.
#pragma once

#include <cstdint>

#include "core/cache.h"

namespace spkv {

// Adds what one list takes: pages[i] for i + 1 more tokens. `keep(s)` says whether the pair in slot s of the
// ring is to be kept; `shared(i)` whether others hold page i of the list, so that the first write to it takes
// a copy.
template <typename Keep, typename Shared>
void forecast_list(const CacheGeometry& g, int64_t length, int64_t kept, const Keep& keep,
                   const Shared& shared, int64_t tokens, int32_t* pages) {
  const int64_t slots = g.ring_slots();
  const bool last_shared = kept % kPageTokens != 0 && shared(g.ring_pages() + kept / kPageTokens);
  int64_t enters = length % slots, first_page = enters / kPageTokens;  // the slot of the pair that comes
  int64_t leaves = (enters + g.slack) % slots;                      // and of the one that leaves the window
  int64_t room = (kPageTokens - kept % kPageTokens) % kPageTokens;  // in the last page
  int32_t taken = 0;
  bool appended = false;
  for (int64_t i = 0; i < tokens; i++) {
    // Writing to a page of the ring for the first time.
    if (i == 0 || (enters % kPageTokens == 0 && i < slots && enters / kPageTokens != first_page))
      taken += shared(enters / kPageTokens);
    if (length + i >= g.window && (i >= g.window || keep(leaves))) {
      if (!appended) taken += last_shared;
      appended = true;
      taken += room == 0;
      room = (room == 0 ? kPageTokens : room) - 1;
    }
    pages[i] += taken;
    if (++enters == slots) enters = 0;
    if (++leaves == slots) leaves = 0;
  }
}

}  // namespace spkv
