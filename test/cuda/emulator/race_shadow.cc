#include "emulator/race_shadow.h"

#include <memory>
#include <unordered_map>

#include "emulator/block.h"
#include "emulator/race_report.h"

// Static arrays lie here, those of kernels and the one of dynamic shared memory; the linker says where.
extern "C" {
extern char __bss_start[] __attribute__((visibility("hidden")));
extern char _end[] __attribute__((visibility("hidden")));
}

namespace spkv_emulator {
namespace races {
namespace {

constexpr uintptr_t kWordBytes = 4, kPageWords = kPageBytes / kWordBytes;
struct Page {
  bool shared = false;
  Word words[kPageWords];
};

std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;  // by number
struct Found {
  uintptr_t number = ~uintptr_t{0};
  Page* page = nullptr;
} recent[1024];

void add_page(uintptr_t number, bool shared) {
  auto& page = pages[number];
  page = std::make_unique<Page>();
  page->shared = shared;
  recent[number % 1024] = Found();
}

// Null for memory that kernels do not share.
Page* page_at(uintptr_t number) {
  Found& found = recent[number % 1024];
  if (found.number != number) {
    auto at = pages.find(number);
    found = {number, at == pages.end() ? nullptr : at->second.get()};
  }
  return found.page;
}

// Whether the one access comes before the other, as far as what the observer has seen says.
bool is_before(const Record& earlier, const Record& now, const Observer& observer, bool shared) {
  const View& view = *observer.view;
  if (earlier.launch != now.launch) return shared || earlier.launch <= view.seen->launches;
  bool by_thread = earlier.kind == Agent::kThread;
  bool must_be_published = observer.beside && by_thread && earlier.writes() && !like_racecheck;
  const Clock* seen = must_be_published ? view.published.get() : view.seen.get();
  if (earlier.block != now.block) {
    if (shared) return true;
    auto at = seen->blocks.find(earlier.block);
    return at != seen->blocks.end() && at->second->of(earlier.agent) >= earlier.epoch;
  }
  if (by_thread && earlier.agent == observer.thread && !must_be_published) return true;
  if (view.met && view.met->of(earlier.agent) >= earlier.epoch) return true;
  return seen->of(earlier.agent) >= earlier.epoch;
}

}  // namespace

void begin_memory(const void* pointer, size_t bytes) {
  if (!on() || like_racecheck) return;
  auto at = reinterpret_cast<uintptr_t>(pointer);
  for (uintptr_t page = at / kPageBytes; page * kPageBytes < at + bytes; page++) add_page(page, false);
}

void end_memory(const void* pointer, size_t bytes) {
  if (!on()) return;
  auto at = reinterpret_cast<uintptr_t>(pointer);
  for (uintptr_t page = at / kPageBytes; page * kPageBytes < at + bytes; page++) {
    pages.erase(page);
    recent[page % 1024] = Found();
  }
}

void begin_shared_memory() {
  static bool begun = false;
  if (!on() || begun) return;
  begun = true;
  auto begin = reinterpret_cast<uintptr_t>(__bss_start), end = reinterpret_cast<uintptr_t>(_end);
  for (uintptr_t page = begin / kPageBytes; page * kPageBytes < end; page++) add_page(page, true);
}

inline bool Check::is_before(const Record& record) {
  if (record.launch == last_.launch && record.epoch == last_.epoch && record.agent == last_.agent &&
      record.block == last_.block && record.access == last_.access)
    return last_is_before_;
  return compare_anew(record);
}

void Check::add(const void* pointer, size_t bytes) {
  at_ = reinterpret_cast<uintptr_t>(pointer), bytes_ = bytes;
  for (uintptr_t number = at_ / kWordBytes; number * kWordBytes < at_ + bytes_; number++) {
    Page* page = page_at(number / kPageWords);
    if (!page) continue;
    shared_ = page->shared;
    uintptr_t begin = std::max(number * kWordBytes, at_),
              end = std::min((number + 1) * kWordBytes, at_ + bytes_);
    now_.bytes = static_cast<uint8_t>(((1u << (end - begin)) - 1) << begin % kWordBytes) & 0xf;
    Word& word = page->words[number % kPageWords];
    compare_with(&word.writes);
    if (now_.writes()) {
      compare_with(&word.reads);
      word.writes.push_back(now_);
    } else {
      remember_read(&word);
    }
  }
}

void check_order(const void* at, const Record& earlier, const Record& now, const Observer& observer) {
  if (!is_before(earlier, now, observer, true))
    report_race({reinterpret_cast<uintptr_t>(at), sizeof(uint64_t), true, now, earlier});
}

// A write that comes after other accesses stands for them; not an atomic one for those that are not, though,
// which may not even come before other atomic ones.
void Check::compare_with(std::vector<Record>* earlier) {
  size_t left = 0;
  for (const Record& record : *earlier) {
    bool over = false;
    if (record.bytes & now_.bytes) {
      bool before = is_before(record), race = !before && !(record.atomic() && now_.atomic());
      if (race) report_race({at_, bytes_, shared_, now_, record});
      over = now_.writes() && (before || race) && (record.bytes & ~now_.bytes) == 0 &&
             (record.atomic() || !now_.atomic());
    }
    if (over) continue;
    if (&(*earlier)[left] != &record) (*earlier)[left] = record;
    left++;
  }
  earlier->resize(left);
}

bool Check::compare_anew(const Record& record) {
  last_ = record;
  last_is_before_ = true;
  for (int i = 0; i < count_ && last_is_before_; i++)
    last_is_before_ = races::is_before(record, now_, observers_[i], shared_);
  return last_is_before_;
}

// Reads that come before this one need not be known any more: what comes after it comes after them. They go
// when there are many.
void Check::remember_read(Word* word) {
  std::vector<Record>* reads = &word->reads;
  size_t count = reads->size();
  for (size_t i = count; i > 0 && i + 4 > count; i--) {
    Record& record = (*reads)[i - 1];
    if (record.agent != now_.agent || record.block != now_.block || record.launch != now_.launch ||
        record.bytes != now_.bytes || record.access != now_.access)
      continue;
    record = now_;
    return;
  }
  if (count >= word->many_reads) {
    auto is_over = [this](const Record& record) {
      return (record.bytes & ~now_.bytes) == 0 && record.atomic() == now_.atomic() && is_before(record);
    };
    reads->erase(std::remove_if(reads->begin(), reads->end(), is_over), reads->end());
    word->many_reads = std::max(kManyReads, 2 * reads->size());
  }
  reads->push_back(now_);
}

}  // namespace races
}  // namespace spkv_emulator
