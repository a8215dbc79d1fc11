// Prefixes of tokens in falling order of their logits, found in linear time without sorting: a quickselect
// that adds up probabilities on the way.
#pragma once

#include "cpu/simd.h"

SPKV_ISA_BEGIN

// Ascending keys are falling logits, equal ones by ascending id.
struct Candidate {
  uint64_t key;
  double weight;

  int32_t id() const { return static_cast<int32_t>(key & 0xffffffffu); }
};

inline uint64_t candidate_key(float x, int64_t id) {
  const uint32_t bits = as_bits(x + 0.0f);  // -0 equals 0
  const uint32_t falling = bits & 0x80000000u ? bits : ~bits & 0x7fffffffu;
  return (static_cast<uint64_t>(falling) << 32) | static_cast<uint64_t>(id);
}

struct Prefix {
  int64_t count = 0;
  double mass = 0;
};

// The index of a median of three, at places that no regular input can foresee.
inline int64_t choose_pivot(const Candidate* items, int64_t begin, int64_t end, uint64_t* random) {
  int64_t at[3];
  for (int64_t& index : at) {
    *random = *random * 6364136223846793005u + 1442695040888963407u;
    index = begin + static_cast<int64_t>((*random >> 33) % static_cast<uint64_t>(end - begin));
  }
  const uint64_t a = items[at[0]].key, b = items[at[1]].key, c = items[at[2]].key;
  if (a < b) return b < c ? at[1] : a < c ? at[2] : at[0];
  return a < c ? at[0] : b < c ? at[2] : at[1];
}

inline void swap(Candidate* a, Candidate* b) {
  const Candidate item = *a;
  *a = *b;
  *b = item;
}

// Moves what comes before `pivot` to the front of [begin, end) and returns how much that is.
inline Prefix partition(Candidate* items, int64_t begin, int64_t end, uint64_t pivot) {
  Prefix front;
  Candidate* to = items + begin;
  for (int64_t i = begin; i < end; i++) {
    const Candidate item = items[i];
    const bool first = item.key < pivot;
    items[i] = *to;
    *to = item;
    front.mass += first ? item.weight : 0;
    to += first;
  }
  front.count = to - (items + begin);
  return front;
}

// The shortest prefix in falling order for which enough(prefix) holds, or all if there is none. Moves it to
// the front of the items, with the last of it in the last place. An empty prefix must not be enough.
template <typename Enough>
Prefix shortest_prefix(Candidate* items, int64_t n, const Enough& enough) {
  Prefix found;  // in front, and not enough
  uint64_t random = 0;
  for (int64_t end = n; found.count < end;) {
    swap(&items[choose_pivot(items, found.count, end, &random)], &items[end - 1]);
    const Candidate pivot = items[end - 1];
    const Prefix front = partition(items, found.count, end - 1, pivot.key);
    const Prefix without = {found.count + front.count, found.mass + front.mass};
    swap(&items[without.count], &items[end - 1]);
    if (enough(without)) {
      end = without.count;
      continue;
    }
    found = {without.count + 1, without.mass + pivot.weight};
    if (enough(found)) break;
  }
  return found;
}

// Keeps the items of at least this weight.
inline Prefix drop_unlikely(Candidate* items, int64_t n, double least) {
  Prefix kept;
  for (int64_t i = 0; i < n; i++) {
    if (items[i].weight < least) continue;
    kept.mass += items[i].weight;
    items[kept.count++] = items[i];
  }
  return kept;
}

SPKV_ISA_END
