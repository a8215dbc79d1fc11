// Saving and restoring; core/saved_sequence.h describes the bytes.
#include "core/saved_sequence.h"

#include "cpu/cache.h"

namespace spkv {
namespace cpu {
namespace {

// Where the pairs of a list lie: pair i of the kept ones or of the ring, by slot number in the list's pages.
template <typename T>
struct Rows {
  const PagePool& pool;
  const std::vector<int32_t>& pages;
  int64_t dim;

  Page<T> page(int64_t slot) const {
    return Page<T>(pool.page(pages[static_cast<size_t>(slot / kPageTokens)]), dim);
  }
  // Calls visit(page, slot in it) for pairs 0 to count - 1.
  template <typename Slot, typename Visit>
  void for_each(int64_t count, const Slot& slot, const Visit& visit) const {
    for (int64_t i = 0; i < count; i++) visit(page(slot(i)), slot(i) % kPageTokens);
  }
  template <typename Slot>
  void write_out(int64_t count, const Slot& slot, uint8_t* out) const {
    for_each(count, slot, [&](const Page<T>& page, int64_t at) {
      for (int64_t d = 0; d < dim; d++, out += sizeof(T)) memcpy(out, &page.key(at, d), sizeof(T));
      if (Page<T>::kScaled) *out++ = page.key_scale(at);
    });
    for_each(count, slot, [&](const Page<T>& page, int64_t at) {
      for (int64_t d = 0; d < dim; d++, out += sizeof(T)) memcpy(out, &page.value(at, d), sizeof(T));
      if (Page<T>::kScaled) *out++ = page.value_scale(at);
    });
  }
  template <typename Slot>
  void read_in(int64_t count, const Slot& slot, const uint8_t* in) const {
    for_each(count, slot, [&](const Page<T>& page, int64_t at) {
      for (int64_t d = 0; d < dim; d++, in += sizeof(T)) memcpy(&page.key(at, d), in, sizeof(T));
      if (Page<T>::kScaled) page.key_scale(at) = *in++;
    });
    for_each(count, slot, [&](const Page<T>& page, int64_t at) {
      for (int64_t d = 0; d < dim; d++, in += sizeof(T)) memcpy(&page.value(at, d), in, sizeof(T));
      if (Page<T>::kScaled) page.value_scale(at) = *in++;
    });
  }
};

}  // namespace

template <typename T>
void CpuCache::save_list(const Sequence& sequence, size_t index, const SavedList<uint8_t>& saved) const {
  const List& list = sequence.lists[index];
  Rows<T> rows{pool_, list.pages, geometry_.head_dim};
  int64_t slots = geometry_.ring_slots(), ring = sequence.length - sequence.oldest;
  auto ring_slot = [&](int64_t i) { return (sequence.oldest + i) % slots; };
  rows.write_out(
      list.kept, [&](int64_t i) { return geometry_.ring_pages() * kPageTokens + i; }, saved.kept_rows);
  for (int64_t i = 0; i < ring; i++)
    saved.keep[i] = sequence.keep[index * static_cast<size_t>(slots) + ring_slot(i)];
  rows.write_out(ring, ring_slot, saved.ring_rows);
}

Status CpuCache::save(int32_t slot, std::vector<uint8_t>* bytes) const {
  SPKV_RETURN_IF_ERROR(check(slot));
  const Sequence& sequence = sequences_[static_cast<size_t>(slot)];
  std::vector<int64_t> kept;
  for (const List& list : sequence.lists) kept.push_back(list.kept);
  std::vector<SavedList<uint8_t>> lists =
      begin_saved(geometry_, sequence.length, sequence.oldest, sequence.threshold, kept, bytes);
  for (size_t i = 0; i < lists.size(); i++) {
    with_elements(geometry_.dtype,
                  [&](auto element) { save_list<decltype(element)>(sequence, i, lists[i]); });
  }
  return Status();
}

template <typename T>
void CpuCache::restore_list(const SavedList<const uint8_t>& saved, size_t index, Sequence* sequence) {
  List& list = sequence->lists[index];
  int64_t slots = geometry_.ring_slots(), ring = sequence->length - sequence->oldest;
  auto ring_slot = [&](int64_t i) { return (sequence->oldest + i) % slots; };
  list.kept = saved.kept;
  int64_t pages = geometry_.ring_pages() + kept_pages(list.kept);
  for (int64_t i = 0; i < pages; i++) list.pages.push_back(allocate_zeroed());
  Rows<T> rows{pool_, list.pages, geometry_.head_dim};
  rows.read_in(
      list.kept, [&](int64_t i) { return geometry_.ring_pages() * kPageTokens + i; }, saved.kept_rows);
  for (int64_t i = 0; i < ring; i++)
    sequence->keep[index * static_cast<size_t>(slots) + ring_slot(i)] = saved.keep[i];
  rows.read_in(ring, ring_slot, saved.ring_rows);
}

Status CpuCache::restore(const uint8_t* bytes, int64_t size, int32_t* slot) {
  SavedSequence saved;
  SPKV_RETURN_IF_ERROR(read_saved(geometry_, bytes, size, &saved));
  SPKV_RETURN_IF_ERROR(check_available(saved.pages));
  SPKV_RETURN_IF_ERROR(check_saved_numbers(geometry_, saved));
  Sequence sequence;
  sequence.live = true;
  sequence.length = saved.length;
  sequence.oldest = saved.oldest;
  sequence.threshold = saved.threshold;
  sequence.lists.resize(saved.lists.size());
  sequence.keep.resize(static_cast<size_t>(geometry_.lists() * geometry_.ring_slots()));
  for (size_t i = 0; i < saved.lists.size(); i++) {
    with_elements(geometry_.dtype,
                  [&](auto element) { restore_list<decltype(element)>(saved.lists[i], i, &sequence); });
  }
  *slot = take_slot();
  sequences_[static_cast<size_t>(*slot)] = std::move(sequence);
  return Status();
}

}  // namespace cpu
}  // namespace spkv
