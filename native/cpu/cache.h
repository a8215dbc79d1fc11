// The cache of the CPU device. See core/cache.h for what it means and cpu/page.h for what a page looks like.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/cache.h"
#include "core/saved_sequence.h"
#include "core/view.h"
#include "cpu/page.h"
#include "cpu/page_pool.h"
#include "ops/insert.h"

namespace spkv {
namespace cpu {

// What a kernel sees of one list: plain pointers, valid until the cache changes.
struct ListView {
  char* pool = nullptr;  // page i lies at pool + pages[i] * page_bytes
  int64_t page_bytes = 0;
  const int32_t* pages = nullptr;  // the ring's pages, then those of the kept pairs
  int64_t ring_pages = 0;
  int64_t ring_slots = 0;
  uint8_t* keep = nullptr;  // [ring_slots] 1 where the utility reached the threshold
  int64_t kept = 0;         // pairs in the kept pages
  int64_t length = 0;       // tokens in the sequence
  float threshold = 0;

  SPKV_INLINE void* page(int64_t index) const { return pool + pages[index] * page_bytes; }
};

// A shared page and its copy, which is to be filled before anything is written.
struct PageCopy {
  void* to;
  const void* from;
};

class CpuCache : public Cache {
 public:
  explicit CpuCache(const CacheGeometry& geometry) : geometry_(geometry) {}
  Status reserve() { return pool_.reserve(geometry_.capacity_pages, page_bytes(geometry_)); }

  static int64_t page_bytes(const CacheGeometry& geometry);

  const CacheGeometry& geometry() const override;
  PoolStats pool_stats() const override;
  Status create(float threshold, int32_t* slot) override;
  Status release(int32_t slot) override;
  Status fork(int32_t slot, int32_t* copy) override;
  Status rewind(int32_t slot, int64_t tokens) override;
  Status sequence_stats(int32_t slot, SequenceStats* stats) const override;
  Status forecast(const std::vector<int32_t>& slots, int64_t tokens,
                  std::vector<int32_t>* pages) const override;
  Status save(int32_t slot, std::vector<uint8_t>* bytes) const override;
  Status restore(const uint8_t* bytes, int64_t size, int32_t* slot) override;
  Status poison() override;

  // For the kernels. Not inline: see cpu/isa.h.
  //
  // Checks what no binding can: that the slots are live and all different, that the offsets rise from 0 to
  // `tokens`, and that positions stay in 31 bits.
  Status check_step(const View& slots, const View& offsets, int64_t tokens);
  int64_t length(int32_t slot) const;
  ListView list_view(int32_t slot, int64_t layer, int64_t head);

  // An insert in three parts. `begin_insert` gets every page that it needs, or fails and changes nothing; the
  // kernel then makes the copies and writes the pairs; `end_insert` lets them count.
  Status begin_insert(const InsertParams& params, const PageCopy** copies, int64_t* copy_count);
  void end_insert(const InsertParams& params);

 private:
  struct List {
    std::vector<int32_t> pages;  // the ring's, then those of the kept pairs
    int64_t kept = 0;
    int64_t leaving = 0;  // pairs that the insert under way appends
  };
  struct Sequence {
    bool live = false;
    float threshold = 0;
    int64_t length = 0;
    int64_t oldest = 0;  // the ring holds the pairs of positions [oldest, length)
    std::vector<List> lists;
    std::vector<uint8_t> keep;  // [lists][ring slots]
    uint64_t seen = 0;          // the step that last named this sequence
  };
  // A page that an insert writes to while others hold it, too.
  struct Shared {
    List* list;
    size_t index;
  };

  Status check(int32_t slot) const;
  Status check_available(int64_t needed) const;
  int32_t take_slot();
  int32_t allocate_zeroed();
  int64_t kept_pages(int64_t kept) const { return (kept + kPageTokens - 1) / kPageTokens; }
  int64_t count_kept(const Sequence& sequence, size_t list, int64_t from, int64_t to) const;
  void trim(List* list);
  int64_t count_leaving(const Sequence& sequence, size_t list, const InsertParams& params, int64_t row,
                        int64_t tokens) const;
  int64_t share_out(List* list, size_t index);
  int64_t plan_list(Sequence* sequence, size_t list, const InsertParams& params, int64_t row, int64_t tokens);
  template <typename T>
  void poison_list(const Sequence& sequence, const List& list);
  template <typename T>
  void save_list(const Sequence& sequence, size_t list, const SavedList<uint8_t>& saved) const;
  template <typename T>
  void restore_list(const SavedList<const uint8_t>& saved, size_t list, Sequence* sequence);

  CacheGeometry geometry_;
  PagePool pool_;
  std::vector<Sequence> sequences_;
  std::vector<int32_t> free_slots_;
  std::vector<Shared> shared_;
  std::vector<PageCopy> copies_;
  uint64_t step_ = 0;
};

int64_t page_bytes(const CacheGeometry& geometry);
std::unique_ptr<Cache> create_cache(const CacheGeometry& geometry, Status* status);

}  // namespace cpu
}  // namespace spkv
