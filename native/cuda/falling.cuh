// Prefixes of a row in falling order, found without sorting: the tokens are counted and weighed in bins, the
// bin in which the prefix ends is divided into bins again, until one token is left in it. All calls are made
// by the whole block.
#pragma once

#include <cstdint>

#include "cuda/common/reduce.cuh"
#include "cuda/row_logits.cuh"

namespace spkv {
namespace cuda {

using Mass = unsigned long long;

struct Histogram {
  static constexpr int kBins = Softmax::kBins;

  // A mass in two halves, because shared memory adds 32 bits in one instruction, but not 64.
  uint32_t low[kBins], high[kBins];
  uint32_t count[kBins];
  int last[kBins];  // the highest id

  __device__ void clear() {
    __syncthreads();  // it has been read
    for (int i = threadIdx.x; i < kBins; i += blockDim.x) low[i] = high[i] = count[i] = last[i] = 0;
    __syncthreads();
  }
  __device__ __forceinline__ void add(int bin, Mass mass, int id) {
    const uint32_t part = static_cast<uint32_t>(mass);
    const uint32_t carry = atomicAdd(&low[bin], part) > ~part ? 1 : 0;
    const uint32_t rest = static_cast<uint32_t>(mass >> 32) + carry;
    if (rest != 0) atomicAdd(&high[bin], rest);
    atomicAdd(&count[bin], 1u);
    atomicMax(&last[bin], id);
  }
  __device__ Mass mass(int bin) const { return Mass{high[bin]} << 32 | low[bin]; }
};

// What a prefix is to reach: a mass or a count, at least 1.
struct Goal {
  bool counted;
  Mass amount;
};

// The bin in which the goal is reached, with what comes before it.
struct Place {
  Mass mass;
  uint32_t count;
  int bin;
  Mass bin_mass;
  uint32_t bin_count;  // 0: the goal is not reached at all
};

__device__ inline Place find(const Histogram& histogram, const Goal& goal, const Place& before) {
  __shared__ Place found;
  const int bins = Histogram::kBins / static_cast<int>(blockDim.x),
            first = static_cast<int>(threadIdx.x) * bins;
  Place own = {};
  for (int i = first; i < first + bins; i++) {
    own.bin_mass += histogram.mass(i);
    own.bin_count += histogram.count[i];
  }
  own.mass = before.mass + block_sum_before(own.bin_mass);
  own.count = before.count + block_sum_before(own.bin_count);
  if (threadIdx.x == 0) found = Place{};
  __syncthreads();
  const Mass start = goal.counted ? own.count : own.mass;
  const Mass content = goal.counted ? own.bin_count : own.bin_mass;
  if (start < goal.amount && start + content >= goal.amount) {
    for (own.bin = first;; own.bin++) {
      own.bin_mass = histogram.mass(own.bin);
      own.bin_count = histogram.count[own.bin];
      if ((goal.counted ? own.count + own.bin_count : own.mass + own.bin_mass) >= goal.amount) break;
      own.mass += own.bin_mass;
      own.count += own.bin_count;
    }
    found = own;
  }
  __syncthreads();
  return found;
}

// How far a range must be shifted to have no more numbers than there are bins.
__device__ inline int shift_for(uint32_t range) {
  int shift = 0;
  while ((range - 1) >> shift >= static_cast<uint32_t>(Histogram::kBins)) shift++;
  return shift;
}

struct Prefix {
  bool found;
  Mass mass;
  int last;  // the id of its last token, where asked for
};

// A row whose tokens have been sorted into bins by depth. Tokens of weight 0 are left out everywhere.
struct FallingRow {
  const RowLogits& logits;
  const Softmax& softmax;
  const Histogram& depths;
  Histogram* finer;

  // The shortest prefix that reaches the goal.
  __device__ Prefix shortest_prefix(const Goal& goal, bool name_last) const {
    Place place = find(depths, goal, Place{});
    if (place.bin_count == 0) return {false, 0, 0};
    __shared__ uint32_t bounds[2];
    if (threadIdx.x < 2) bounds[threadIdx.x] = softmax.first_key(place.bin + static_cast<int>(threadIdx.x));
    __syncthreads();
    uint32_t low = bounds[0], high = bounds[1];
    do {
      const int shift = shift_for(high - low);
      finer->clear();
      logits.for_tokens(0, logits.size(), [&](int id, float x) {
        const uint32_t key = falling_key(x);
        if (key < low || key >= high) return;
        const Mass weight = softmax.weight(x);
        if (weight != 0) finer->add(static_cast<int>((key - low) >> shift), weight, id);
      });
      __syncthreads();
      place = find(*finer, goal, place);
      low += static_cast<uint32_t>(place.bin) << shift;
      high = high - low < 1u << shift ? high : low + (1u << shift);
    } while (place.bin_count > 1 && high - low > 1);

    // Tokens of one logit have one weight.
    const Mass each = place.bin_mass / place.bin_count;
    const Mass needed =
        goal.counted ? goal.amount - place.count : (goal.amount - place.mass + each - 1) / each;
    const Mass mass = place.mass + needed * each;
    const bool tied = place.bin_count > 1;
    return {true, mass, !tied ? finer->last[place.bin] : name_last ? tied_token(low, needed) : 0};
  }

  // The n-th of the tokens with this key, in order of their ids.
  __device__ int tied_token(uint32_t key, Mass n) const {
    Place place = {};
    int begin = 0, end = logits.size();
    do {
      const int shift = shift_for(static_cast<uint32_t>(end - begin));
      finer->clear();
      logits.for_tokens(begin, end, [&](int id, float x) {
        if (falling_key(x) == key) finer->add((id - begin) >> shift, 0, id);
      });
      __syncthreads();
      place = find(*finer, {true, n}, place);
      begin += place.bin << shift;
      end = end - begin < 1 << shift ? end : begin + (1 << shift);
    } while (place.bin_count > 1);
    return finer->last[place.bin];
  }

  // Of all tokens of at most some depth.
  __device__ Mass mass_within(float depth) const {
    Mass mass = 0;
    logits.for_tokens(0, logits.size(), [&](int, float x) {
      if (softmax.depth(x) <= depth) mass += softmax.weight(x);
    });
    return block_reduce(mass, Mass{0}, Sum());
  }
};

}  // namespace cuda
}  // namespace spkv
