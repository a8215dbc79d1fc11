// A sequence as bytes, little-endian, whatever the device and its layout of pages:
//
//   "SPKVSEQ1"  layers  kvHeads  headDim  window  slack  dtype  length  oldest     8 bytes each
//   threshold (f32), 4 bytes of zeros
//   for every layer and KV head:
//     n                        pairs in the kept pages, 8 bytes
//     keys [n], values [n]
//     keep [r]                 r = length - oldest, the pairs in the ring: 1 where kept, else 0
//     keys [r], values [r]
//
// Keys and values are rows of the cache's dtype: D numbers, and in fp8 a byte with their scale. `oldest` is
// the first position that the ring still holds.
#pragma once

#include <cstdint>
#include <vector>

#include "core/cache.h"
#include "core/status.h"

namespace spkv {

// Where the parts of a list stand in the bytes; at any alignment.
template <typename Byte>
struct SavedList {
  int64_t kept = 0;
  Byte* kept_rows = nullptr;  // keys, then values
  Byte* keep = nullptr;
  Byte* ring_rows = nullptr;  // keys, then values
};

struct SavedSequence {
  int64_t length = 0;
  int64_t oldest = 0;
  float threshold = 0;
  int64_t pages = 0;                            // that a cache needs for it
  std::vector<SavedList<const uint8_t>> lists;  // [layers * kv_heads]

  int64_t ring() const { return length - oldest; }
};

// Finds the parts of a saved sequence, and checks everything but the keys and values.
Status read_saved(const CacheGeometry& geometry, const uint8_t* bytes, int64_t size, SavedSequence* saved);
// That keys and values are finite numbers.
Status check_saved_numbers(const CacheGeometry& geometry, const SavedSequence& saved);

// Makes room for a sequence whose lists have kept[i] pairs, and writes all but the parts of its lists.
std::vector<SavedList<uint8_t>> begin_saved(const CacheGeometry& geometry, int64_t length, int64_t oldest,
                                            float threshold, const std::vector<int64_t>& kept,
                                            std::vector<uint8_t>* bytes);

}  // namespace spkv
