// The bookkeeping of an insert; cpu/insert.cc moves the data.
#include "cpu/cache.h"

#include <algorithm>

namespace spkv {
namespace cpu {
namespace {

using Long = long long;  // what %lld prints

// Calls visit(slot, first row, tokens) for every sequence of the step that has new tokens.
template <typename Visit>
void for_each_sequence(const View& slots, const View& offsets, const Visit& visit) {
  const int32_t* slot = slots.as<int32_t>();
  const int32_t* offset = offsets.as<int32_t>();
  for (int64_t b = 0; b < slots.shape[0]; b++) {
    if (offset[b + 1] > offset[b]) visit(slot[b], int64_t{offset[b]}, int64_t{offset[b + 1] - offset[b]});
  }
}

}  // namespace

Status CpuCache::check_step(const View& slots, const View& offsets, int64_t tokens) {
  const int32_t* slot = slots.as<int32_t>();
  const int32_t* offset = offsets.as<int32_t>();
  int64_t batch = slots.shape[0];
  step_++;
  bool rising = offset[0] == 0 && offset[batch] == tokens;
  for (int64_t b = 0; b < batch; b++) {
    rising = rising && offset[b] <= offset[b + 1];
    SPKV_RETURN_IF_ERROR(check(slot[b]));
    Sequence& sequence = sequences_[static_cast<size_t>(slot[b])];
    if (sequence.seen == step_)
      return fail(Code::kInvalidArgument, "Expected different sequences for slots but %d is there twice",
                  slot[b]);
    sequence.seen = step_;
  }
  if (!rising)
    return fail(Code::kInvalidArgument, "Expected offsets to rise from 0 to %lld, the number of new tokens",
                static_cast<Long>(tokens));
  for (int64_t b = 0; b < batch; b++) {
    if (length(slot[b]) + offset[b + 1] - offset[b] > INT32_MAX)
      return fail(Code::kOutOfRange, "A sequence cannot have more than %d tokens", INT32_MAX);
  }
  return Status();
}

// Kept pairs among those that leave the window when `tokens` more arrive.
int64_t CpuCache::count_leaving(const Sequence& sequence, size_t list, const InsertParams& params,
                                int64_t row, int64_t tokens) const {
  int64_t length = sequence.length, end = length + tokens - geometry_.window;
  int64_t from = std::max<int64_t>(0, length - geometry_.window);
  int64_t count = count_kept(sequence, list, from, std::min(end, length));
  if (end <= length) return count;
  if (!params.utilities) return count + end - length;
  const View& utilities = params.utilities;
  int64_t layer = static_cast<int64_t>(list) / geometry_.kv_heads;
  int64_t head = static_cast<int64_t>(list) % geometry_.kv_heads;
  const float* utility = utilities.as<float>() + layer * utilities.stride[0] + row * utilities.stride[1] +
                         head * utilities.stride[2];
  for (int64_t i = 0; i < end - length; i++) count += utility[i * utilities.stride[1]] >= sequence.threshold;
  return count;
}

// Gives up a reference to a page that is about to be written, if others hold it: it needs a copy.
int64_t CpuCache::share_out(List* list, size_t index) {
  int32_t page = list->pages[index];
  if (pool_.references(page) == 1) return 0;
  pool_.release(page);
  shared_.push_back({list, index});
  return 1;
}

// Pages that the list needs: fresh ones and copies.
int64_t CpuCache::plan_list(Sequence* sequence, size_t index, const InsertParams& params, int64_t row,
                            int64_t tokens) {
  List* list = &sequence->lists[index];
  list->leaving = count_leaving(*sequence, index, params, row, tokens);
  int64_t needed = kept_pages(list->kept + list->leaving) - kept_pages(list->kept);
  if (list->leaving > 0 && list->kept % kPageTokens != 0) needed += share_out(list, list->pages.size() - 1);
  int64_t slots = geometry_.ring_slots(), written = std::min(tokens, slots);
  int64_t first = (sequence->length + tokens - written) % slots;
  for (int64_t page = 0; page < geometry_.ring_pages(); page++) {
    // Slots [first, first + written) modulo `slots` against [begin, end) of this page.
    int64_t begin = page * kPageTokens, end = std::min(begin + kPageTokens, slots);
    bool touched = (first < end && begin < first + written) || begin < first + written - slots;
    if (touched) needed += share_out(list, static_cast<size_t>(page));
  }
  return needed;
}

Status CpuCache::begin_insert(const InsertParams& params, const PageCopy** copies, int64_t* copy_count) {
  int64_t needed = 0;
  shared_.clear();
  copies_.clear();
  for_each_sequence(params.slots, params.offsets, [&](int32_t slot, int64_t row, int64_t tokens) {
    Sequence* sequence = &sequences_[static_cast<size_t>(slot)];
    for (size_t i = 0; i < sequence->lists.size(); i++) needed += plan_list(sequence, i, params, row, tokens);
  });
  Status status = check_available(needed);
  if (!status.ok()) {
    for (const Shared& shared : shared_) pool_.retain(shared.list->pages[shared.index]);
    return status;
  }
  for (const Shared& shared : shared_) {
    int32_t copy = pool_.allocate(), original = shared.list->pages[shared.index];
    copies_.push_back({pool_.page(copy), pool_.page(original)});
    shared.list->pages[shared.index] = copy;
  }
  for_each_sequence(params.slots, params.offsets, [&](int32_t slot, int64_t, int64_t) {
    for (List& list : sequences_[static_cast<size_t>(slot)].lists) {
      size_t pages = static_cast<size_t>(geometry_.ring_pages() + kept_pages(list.kept + list.leaving));
      while (list.pages.size() < pages) list.pages.push_back(pool_.allocate());
    }
  });
  *copies = copies_.data();
  *copy_count = static_cast<int64_t>(copies_.size());
  return Status();
}

void CpuCache::end_insert(const InsertParams& params) {
  for_each_sequence(params.slots, params.offsets, [&](int32_t slot, int64_t, int64_t tokens) {
    Sequence& sequence = sequences_[static_cast<size_t>(slot)];
    for (List& list : sequence.lists) list.kept += list.leaving;
    sequence.length += tokens;
    sequence.oldest = std::max(sequence.oldest, sequence.length - geometry_.ring_slots());
  });
}

}  // namespace cpu
}  // namespace spkv
