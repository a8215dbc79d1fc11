#include "cpu/page_pool.h"

#include <sys/mman.h>

#include <algorithm>

namespace spkv {
namespace cpu {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

}  // namespace

PagePool::~PagePool() {
  if (mapping_) munmap(mapping_, mapping_bytes_);
}

Status PagePool::reserve(int64_t pages, int64_t page_bytes) {
  int64_t bytes = 0;
  if (pages > INT32_MAX || __builtin_mul_overflow(pages, page_bytes, &bytes) || bytes > INT64_MAX / 2)
    return fail(Code::kOutOfMemory, "A cache of %lld pages of %lld bytes does not fit the address space",
                static_cast<long long>(pages), static_cast<long long>(page_bytes));
  int flags = MAP_PRIVATE | MAP_ANONYMOUS;
#if defined(MAP_NORESERVE)
  flags |= MAP_NORESERVE;
#endif
  mapping_bytes_ = static_cast<size_t>(bytes) + kHugePage;
  void* mapping = mmap(nullptr, mapping_bytes_, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (mapping == MAP_FAILED)
    return fail(Code::kOutOfMemory, "The system refuses %lld bytes of address space for the cache",
                static_cast<long long>(bytes));
  mapping_ = mapping;
  uintptr_t address = reinterpret_cast<uintptr_t>(mapping);
  base_ = reinterpret_cast<char*>((address + kHugePage - 1) / kHugePage * kHugePage);
#if defined(MADV_HUGEPAGE)
  madvise(base_, static_cast<size_t>(bytes), MADV_HUGEPAGE);
#endif
  page_bytes_ = page_bytes;
  capacity_ = pages;
  return Status();
}

int32_t PagePool::allocate() {
  int32_t id;
  if (free_.empty()) {
    id = static_cast<int32_t>(references_.size());
    references_.push_back(1);
    // Room for every page, so that a release never needs memory.
    free_.reserve(references_.capacity());
  } else {
    id = free_.back();
    free_.pop_back();
    references_[static_cast<size_t>(id)] = 1;
  }
  used_++;
  peak_ = std::max(peak_, used_);
  return id;
}

void PagePool::release(int32_t id) {
  if (--references_[static_cast<size_t>(id)] > 0) return;
  free_.push_back(id);
  used_--;
}

}  // namespace cpu
}  // namespace spkv
