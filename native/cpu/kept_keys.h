// The keys of one document and KV head that gates have not removed, in the order of their positions. Keys
// that have left the window are taken from this list, so that what was removed costs nothing.
#pragma once

#include "cpu/running_softmax.h"
#include "cpu/scratch.h"

SPKV_ISA_BEGIN

struct KeptKeys {
  int32_t* positions = nullptr;  // from the document's first token; then kNever, up to a whole page
  float* gates = nullptr;        // theirs; then 0
  int64_t count = 0;

  static constexpr int32_t kNever = INT32_MAX;

  static SPKV_INLINE KeptKeys carve(Carver* carver, int64_t tokens) {
    const int64_t most = divide_up(tokens, kPageTokens) * kPageTokens;
    return {carver->take<int32_t>(most), carver->take<float>(most), 0};
  }

  SPKV_INLINE void list(const View& all, int64_t token, int64_t tokens, int64_t head) {
    count = 0;
    for (int64_t i = 0; i < tokens; i++) {
      const float gate = all.as<float>()[(token + i) * all.stride[0] + head];
      if (gate == -__builtin_inff()) continue;
      positions[count] = static_cast<int32_t>(i);
      gates[count++] = gate;
    }
    for (int64_t i = count; i % kPageTokens != 0; i++) {
      positions[i] = kNever;
      gates[i] = 0;
    }
  }

  // How many lie before `position`.
  SPKV_INLINE int64_t before(int64_t position) const {
    int64_t low = 0, high = count;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (positions[middle] < position) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }
};

// The entry of a list whose range of items has the item; ranges follow each other and begin at entry.*first.
template <typename Entry>
SPKV_INLINE const Entry& entry_of(const Entry* entries, int64_t count, int64_t Entry::*first, int64_t item) {
  int64_t low = 0, high = count;
  while (low + 1 < high) {
    const int64_t middle = (low + high) / 2;
    (entries[middle].*first <= item ? low : high) = middle;
  }
  return entries[low];
}

SPKV_ISA_END
