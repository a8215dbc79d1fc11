// The pages of a cache: one reservation of address space that the system backs with memory as pages are first
// used. Freed pages are used again before untouched ones, so the memory in use is that of the peak.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/status.h"

namespace spkv {
namespace cpu {

class PagePool {
 public:
  PagePool() = default;
  ~PagePool();
  PagePool(const PagePool&) = delete;

  Status reserve(int64_t pages, int64_t page_bytes);

  void* page(int32_t id) const { return base_ + id * page_bytes_; }
  char* base() const { return base_; }
  int64_t page_bytes() const { return page_bytes_; }
  int64_t capacity() const { return capacity_; }
  int64_t used() const { return used_; }
  int64_t peak() const { return peak_; }
  int64_t available() const { return capacity_ - used_; }

  // One reference; the content is arbitrary. Only when available() > 0.
  int32_t allocate();
  // Whether `allocate` will give a page that was never used before: it holds zeros.
  bool next_is_fresh() const { return free_.empty(); }
  void retain(int32_t id) { references_[static_cast<size_t>(id)]++; }
  // Returns the page to the pool with the last reference.
  void release(int32_t id);
  int32_t references(int32_t id) const { return references_[static_cast<size_t>(id)]; }

  // Calls visit(page) for every free page that has been used before; the others hold zeros and no memory.
  template <typename Visit>
  void for_each_free(const Visit& visit) const {
    for (int32_t id : free_) visit(page(id));
  }

 private:
  char* base_ = nullptr;
  void* mapping_ = nullptr;
  size_t mapping_bytes_ = 0;
  int64_t page_bytes_ = 0;
  int64_t capacity_ = 0;
  int64_t used_ = 0;
  int64_t peak_ = 0;
  std::vector<int32_t> references_;  // one per page that was ever used
  std::vector<int32_t> free_;        // of these, the free ones; the last one goes first
};

}  // namespace cpu
}  // namespace spkv
