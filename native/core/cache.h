// The self-pruned cache: a pool of pages and the sequences that hold them.
//
// For every (sequence, layer, KV head) there is one list of pages of kPageTokens slots each:
//
//   page  0 .. R-1            the ring: slot p mod ringSlots holds the pair of position p
//   page  R .. R+ceil(N/64)-1 the N kept pairs that have left the window, in order of position
//
//   ringSlots = window + slack,  R = ceil(ringSlots / kPageTokens)
//
// With T pairs seen so far, ring positions [T - window, T) are live; those further back (the slack) only
// serve `rewind`. A pair at position s leaves the window when position s + window arrives; if its utility
// reached the sequence's threshold it is then copied to the kept pages, else it is gone.
//
// All methods run on the stream's thread, in the order in which they were enqueued.
#pragma once

#include <cstdint>
#include <vector>

#include "core/status.h"
#include "core/view.h"

namespace spkv {

constexpr int64_t kPageTokens = 64;

struct CacheGeometry {
  int64_t layers = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t window = 0;  // pairs this near are always visible, the query's own included
  int64_t slack = 0;   // how many tokens a sequence can be rewound
  DType dtype = DType::kF32;
  int64_t capacity_pages = 0;

  int64_t ring_slots() const { return window + slack; }
  int64_t ring_pages() const { return (ring_slots() + kPageTokens - 1) / kPageTokens; }
  int64_t lists() const { return layers * kv_heads; }
  // Of a key or a value, in order: its elements, and the scale of an fp8 row.
  int64_t row_bytes() const { return head_dim * dtype_bytes(dtype) + (dtype == DType::kFP8 ? 1 : 0); }
};

Status check_geometry(const CacheGeometry& geometry);
// The bits of the largest f32 that a cache of this dtype holds: those of what rounds to infinity, and of NaN,
// are higher.
uint32_t largest_number(DType dtype);
// That `needed` of a pool's pages can be had.
Status check_pages(int64_t needed, int64_t free, int64_t capacity);
// The error of inserting what is larger: in a key (0), a value (1) or a utility (2) of a layer.
Status not_finite(int64_t layer, int64_t what, DType dtype);
Status released_sequence(int32_t slot);  // the error of using it
// That `tokens` can be taken back from a sequence whose ring holds the positions [oldest, length).
Status check_rewind(const CacheGeometry& geometry, int64_t length, int64_t oldest, int64_t tokens);

struct PoolStats {
  int64_t page_bytes = 0;
  int64_t capacity_pages = 0;
  int64_t used_pages = 0;  // each page counted once, however many sequences share it
  int64_t peak_pages = 0;  // the most that were ever in use: what the system has had to provide
  int64_t sequences = 0;
};

struct SequenceStats {
  int64_t length = 0;  // tokens seen
  float threshold = 0;
  int64_t pages = 0;          // ring and kept pages, shared ones included
  int64_t shared_pages = 0;   // of these, held by another sequence too
  std::vector<int64_t> kept;  // [layers * kv_heads] pairs in kept pages
};

class Cache {
 public:
  virtual ~Cache() = default;

  virtual const CacheGeometry& geometry() const = 0;
  virtual PoolStats pool_stats() const = 0;

  // A new, empty sequence. Pairs whose utility is at least `threshold` are kept.
  virtual Status create(float threshold, int32_t* slot) = 0;
  virtual Status release(int32_t slot) = 0;
  // A second sequence with the same content; pages are shared until one of the two writes to them.
  virtual Status fork(int32_t slot, int32_t* copy) = 0;
  // Takes back the last `tokens` tokens (at most the slack).
  virtual Status rewind(int32_t slot, int64_t tokens) = 0;
  virtual Status sequence_stats(int32_t slot, SequenceStats* stats) const = 0;
  // The pages that each of some sequences takes from the pool, as if it were alone: pages [slots, tokens],
  // with i + 1 more tokens in column i, and with the copies of shared pages. Exact as far as the window
  // reaches, an upper bound beyond it.
  virtual Status forecast(const std::vector<int32_t>& slots, int64_t tokens,
                          std::vector<int32_t>* pages) const = 0;

  // The sequence as bytes that do not depend on the device; `restore` makes a new sequence of them.
  virtual Status save(int32_t slot, std::vector<uint8_t>* bytes) const = 0;
  virtual Status restore(const uint8_t* bytes, int64_t size, int32_t* slot) = 0;

  // Fills all memory of the pool that holds no live pair: free pages and the keys of dead slots with NaN, the
  // values of dead slots in live pages, whose weight is exactly 0, with the largest numbers. Tests use it to
  // prove that nothing depends on what nobody wrote.
  virtual Status poison() = 0;
};

}  // namespace spkv
