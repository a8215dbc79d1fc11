// The one pass that every operation on logits begins with.
#pragma once

#include "cpu/simd.h"

SPKV_ISA_BEGIN

// The largest value of a row (NaN does not count), the lowest index among equals, and whether all are finite.
struct Peak {
  float value = -__builtin_inff();
  int64_t index = 0;
  bool finite = true;
};

inline Peak find_peak(const float* row, int64_t n) {
  constexpr int kChains = 4;
  constexpr int64_t kBlock = 1024;  // a multiple of kChains * kLanes
  Peak peak;
  vf zeros[kChains] = {};  // x * 0 is 0 for every finite x, else NaN
  int64_t start = 0, best = 0;
  for (; start + kBlock <= n; start += kBlock) {
    vf largest[kChains];
    for (vf& chain : largest) chain = splat(-__builtin_inff());
    for (int64_t i = start; i < start + kBlock; i += kChains * kLanes) {
      for (int j = 0; j < kChains; j++) {
        const vf x = loadf(row + i + j * kLanes);
        largest[j] = maximum(x, largest[j]);
        zeros[j] += x * splat(0.0f);
      }
    }
    const float value = max_lane(maximum(maximum(largest[0], largest[1]), maximum(largest[2], largest[3])));
    if (value > peak.value) {
      peak.value = value;
      best = start;
    }
  }
  float zero = sum((zeros[0] + zeros[1]) + (zeros[2] + zeros[3]));
  for (int64_t i = start; i < n; i++) {
    zero += row[i] * 0.0f;
    if (row[i] > peak.value) {
      peak.value = row[i];
      best = i;
    }
  }
  peak.finite = zero == 0;
  while (best + 1 < n && row[best] != peak.value) best++;
  peak.index = best;
  return peak;
}

// The sum of exp(x - largest) over a row: blocks in f32, their sums in double. keep(i, e, lanes) is given the
// exponentials.
template <typename Keep>
inline double sum_exponentials(const float* row, int64_t n, float largest, const Keep& keep) {
  constexpr int64_t kBlock = 2048;
  double total = 0;
  for (int64_t start = 0; start < n; start += kBlock) {
    vf block = {};
    for_lanes(smaller(kBlock, n - start), [&](int64_t i, auto lanes) {
      const vf e = exp(read(row + start + i, lanes, -__builtin_inff()) - splat(largest));
      keep(start + i, e, lanes);
      block += e;
    });
    total += sum(block);
  }
  return total;
}

SPKV_ISA_END
