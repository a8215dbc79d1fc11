// What is remembered of accesses to memory: of every word those that later ones may have to be ordered after.
#pragma once

#include <vector>

#include "emulator/race_clock.h"

namespace spkv_emulator {
namespace races {

enum class Agent : uint8_t { kThread, kBulkCopy, kCopy, kBulkRead, kBulkResult, kMatrix };

struct Record {
  uint32_t launch, block, epoch;
  uint16_t agent;  // in its block
  Agent kind;
  Access access : 4;
  uint8_t bytes : 4;  // of the word, as bits
  const void* code = nullptr;

  bool writes() const { return access & kWrite; }
  bool atomic() const { return access & kAtomic; }
};

constexpr size_t kManyReads = 32;

struct Word {
  std::vector<Record> writes, reads;
  size_t many_reads = kManyReads;  // so many are looked through
};

// Who has to see what was accessed before.
struct Observer {
  const View* view;
  int thread;
  bool beside;  // it is a copy or a matrix instruction: it sees of what threads wrote what is published
};

// Accesses of one kind by one agent, which all observers have to see as ordered.
class Check {
 public:
  Check(const Record& now, const Observer* observers, int count)
      : now_(now), observers_(observers), count_(count) {}
  // Compares with what is remembered of these bytes, reports races, and remembers.
  void add(const void* pointer, size_t bytes);

 private:
  void compare_with(std::vector<Record>* earlier);
  bool is_before(const Record& record);
  bool compare_anew(const Record& record);
  void remember_read(Word* word);

  Record now_;
  const Observer* observers_;
  int count_;
  uintptr_t at_ = 0;
  size_t bytes_ = 0;
  bool shared_ = false;
  Record last_ = {};  // the last that was compared, and whether it comes before
  bool last_is_before_ = false;
};

// The same for two accesses to an mbarrier, of which its being made is the one that matters.
void check_order(const void* at, const Record& earlier, const Record& now, const Observer& observer);

}  // namespace races
}  // namespace spkv_emulator
