#include "cpu/cache.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/forecast.h"

namespace spkv {
namespace cpu {
int64_t page_bytes(const CacheGeometry& geometry) { return CpuCache::page_bytes(geometry); }

std::unique_ptr<Cache> create_cache(const CacheGeometry& geometry, Status* status) {
  *status = check_geometry(geometry);
  if (!status->ok()) return nullptr;
  auto cache = std::make_unique<CpuCache>(geometry);
  *status = cache->reserve();
  if (!status->ok()) return nullptr;
  return cache;
}

int64_t CpuCache::page_bytes(const CacheGeometry& geometry) {
  return with_elements(geometry.dtype,
                       [&](auto element) { return Page<decltype(element)>::bytes(geometry.head_dim); });
}

const CacheGeometry& CpuCache::geometry() const { return geometry_; }

int64_t CpuCache::length(int32_t slot) const { return sequences_[static_cast<size_t>(slot)].length; }

PoolStats CpuCache::pool_stats() const {
  PoolStats stats;
  stats.page_bytes = pool_.page_bytes();
  stats.capacity_pages = pool_.capacity();
  stats.used_pages = pool_.used();
  stats.peak_pages = pool_.peak();
  stats.sequences = static_cast<int64_t>(sequences_.size() - free_slots_.size());
  return stats;
}

Status CpuCache::check(int32_t slot) const {
  if (slot < 0 || static_cast<size_t>(slot) >= sequences_.size() ||
      !sequences_[static_cast<size_t>(slot)].live)
    return released_sequence(slot);
  return Status();
}

Status CpuCache::check_available(int64_t needed) const {
  return check_pages(needed, pool_.available(), pool_.capacity());
}

int32_t CpuCache::take_slot() {
  if (free_slots_.empty()) {
    sequences_.emplace_back();
    return static_cast<int32_t>(sequences_.size() - 1);
  }
  int32_t slot = free_slots_.back();
  free_slots_.pop_back();
  return slot;
}

int32_t CpuCache::allocate_zeroed() {
  bool fresh = pool_.next_is_fresh();
  int32_t id = pool_.allocate();
  if (!fresh) memset(pool_.page(id), 0, static_cast<size_t>(pool_.page_bytes()));
  return id;
}

Status CpuCache::create(float threshold, int32_t* slot) {
  if (std::isnan(threshold))
    return fail(Code::kInvalidArgument, "Expected a number for threshold but received NaN");
  int64_t ring_pages = geometry_.ring_pages(), lists = geometry_.lists();
  SPKV_RETURN_IF_ERROR(check_available(lists * ring_pages));
  Sequence sequence;
  sequence.live = true;
  sequence.threshold = threshold;
  sequence.lists.resize(static_cast<size_t>(lists));
  sequence.keep.resize(static_cast<size_t>(lists * geometry_.ring_slots()));
  for (List& list : sequence.lists)
    for (int64_t i = 0; i < ring_pages; i++) list.pages.push_back(allocate_zeroed());
  *slot = take_slot();
  sequences_[static_cast<size_t>(*slot)] = std::move(sequence);
  return Status();
}

Status CpuCache::release(int32_t slot) {
  SPKV_RETURN_IF_ERROR(check(slot));
  Sequence& sequence = sequences_[static_cast<size_t>(slot)];
  // Backwards, so that the next sequence gets the pages in the order in which this one had them.
  for (size_t i = sequence.lists.size(); i-- > 0;) {
    List& list = sequence.lists[i];
    for (size_t j = list.pages.size(); j-- > 0;) pool_.release(list.pages[j]);
  }
  sequence = Sequence();
  free_slots_.push_back(slot);
  return Status();
}

Status CpuCache::fork(int32_t slot, int32_t* copy) {
  SPKV_RETURN_IF_ERROR(check(slot));
  Sequence sequence = sequences_[static_cast<size_t>(slot)];
  for (const List& list : sequence.lists)
    for (int32_t page : list.pages) pool_.retain(page);
  *copy = take_slot();
  sequences_[static_cast<size_t>(*copy)] = std::move(sequence);
  return Status();
}

// Pairs at positions [from, to) that are kept; the ring must hold them.
int64_t CpuCache::count_kept(const Sequence& sequence, size_t list, int64_t from, int64_t to) const {
  int64_t slots = geometry_.ring_slots(), count = 0;
  const uint8_t* keep = sequence.keep.data() + list * static_cast<size_t>(slots);
  for (int64_t p = from; p < to; p++) count += keep[p % slots];
  return count;
}

// Gives back the pages behind the last kept pair.
void CpuCache::trim(List* list) {
  size_t pages = static_cast<size_t>(geometry_.ring_pages() + kept_pages(list->kept));
  while (list->pages.size() > pages) {
    pool_.release(list->pages.back());
    list->pages.pop_back();
  }
}

Status CpuCache::rewind(int32_t slot, int64_t tokens) {
  SPKV_RETURN_IF_ERROR(check(slot));
  Sequence& sequence = sequences_[static_cast<size_t>(slot)];
  SPKV_RETURN_IF_ERROR(check_rewind(geometry_, sequence.length, sequence.oldest, tokens));
  bool all = tokens == sequence.length;
  int64_t length = sequence.length - tokens;
  int64_t from = std::max<int64_t>(0, length - geometry_.window);
  int64_t to = std::max<int64_t>(0, sequence.length - geometry_.window);
  for (size_t i = 0; i < sequence.lists.size(); i++) {
    sequence.lists[i].kept = all ? 0 : sequence.lists[i].kept - count_kept(sequence, i, from, to);
    trim(&sequence.lists[i]);
  }
  sequence.length = length;
  if (all) sequence.oldest = 0;
  return Status();
}

Status CpuCache::sequence_stats(int32_t slot, SequenceStats* stats) const {
  SPKV_RETURN_IF_ERROR(check(slot));
  const Sequence& sequence = sequences_[static_cast<size_t>(slot)];
  *stats = SequenceStats();
  stats->length = sequence.length;
  stats->threshold = sequence.threshold;
  for (const List& list : sequence.lists) {
    stats->kept.push_back(list.kept);
    stats->pages += static_cast<int64_t>(list.pages.size());
    for (int32_t page : list.pages) stats->shared_pages += pool_.references(page) > 1;
  }
  return Status();
}

Status CpuCache::forecast(const std::vector<int32_t>& slots, int64_t tokens,
                          std::vector<int32_t>* pages) const {
  for (int32_t slot : slots) SPKV_RETURN_IF_ERROR(check(slot));
  pages->assign(slots.size() * static_cast<size_t>(tokens), 0);
  const int64_t ring_slots = geometry_.ring_slots();
  for (size_t b = 0; b < slots.size(); b++) {
    const Sequence& sequence = sequences_[static_cast<size_t>(slots[b])];
    int32_t* row = pages->data() + b * static_cast<size_t>(tokens);
    for (size_t i = 0; i < sequence.lists.size(); i++) {
      const List& list = sequence.lists[i];
      const uint8_t* keep = sequence.keep.data() + i * static_cast<size_t>(ring_slots);
      forecast_list(
          geometry_, sequence.length, list.kept, [&](int64_t slot) { return keep[slot] != 0; },
          [&](int64_t page) { return pool_.references(list.pages[static_cast<size_t>(page)]) > 1; }, tokens,
          row);
    }
  }
  return Status();
}

ListView CpuCache::list_view(int32_t slot, int64_t layer, int64_t head) {
  Sequence& sequence = sequences_[static_cast<size_t>(slot)];
  size_t index = static_cast<size_t>(layer * geometry_.kv_heads + head);
  ListView view;
  view.pool = pool_.base();
  view.page_bytes = pool_.page_bytes();
  view.pages = sequence.lists[index].pages.data();
  view.ring_pages = geometry_.ring_pages();
  view.ring_slots = geometry_.ring_slots();
  view.keep = sequence.keep.data() + index * static_cast<size_t>(view.ring_slots);
  view.kept = sequence.lists[index].kept;
  view.length = sequence.length;
  view.threshold = sequence.threshold;
  return view;
}

// Slots of live pages that hold no live pair: their key columns become NaN, because every kernel discards
// those scores. Their value rows are multiplied by a weight of exactly 0, which needs a finite number, so
// they get the largest there is. A page that others hold, too, may have pairs that are live only there.
template <typename T>
void CpuCache::poison_list(const Sequence& sequence, const List& list) {
  float nan = std::numeric_limits<float>::quiet_NaN(), huge = Page<T>::kScaled ? fp8::kLargest : 3e38f;
  std::vector<float> keys(static_cast<size_t>(geometry_.head_dim), nan);
  std::vector<float> values(static_cast<size_t>(geometry_.head_dim), huge);
  int64_t slots = geometry_.ring_slots(), ring_pages = geometry_.ring_pages();
  for (int64_t i = 0; i < static_cast<int64_t>(list.pages.size()); i++) {
    int32_t id = list.pages[static_cast<size_t>(i)];
    if (pool_.references(id) > 1) continue;
    Page<T> page(pool_.page(id), geometry_.head_dim);
    for (int64_t j = 0; j < kPageTokens; j++) {
      int64_t slot = i * kPageTokens + j;
      // The last position below `length` that this slot can hold.
      int64_t position = sequence.length - 1 - ((sequence.length - 1 - slot) % slots + slots) % slots;
      bool live = i < ring_pages ? slot < slots && position >= sequence.oldest
                                 : slot - ring_pages * kPageTokens < list.kept;
      if (!live) page.write(j, keys.data(), values.data());
    }
  }
}

Status CpuCache::poison() {
  // All bits set is a NaN in every dtype.
  pool_.for_each_free([&](void* page) { memset(page, 0xff, static_cast<size_t>(pool_.page_bytes())); });
  for (const Sequence& sequence : sequences_) {
    for (const List& list : sequence.lists) {
      with_elements(geometry_.dtype, [&](auto element) { poison_list<decltype(element)>(sequence, list); });
    }
  }
  return Status();
}

}  // namespace cpu
}  // namespace spkv
