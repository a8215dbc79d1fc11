#include "emulator/copies.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <vector>

#include "emulator/block.h"
#include "emulator/races.h"

namespace spkv_emulator {
namespace {

// In the 8 bytes of the barrier.
struct Barrier {
  int32_t bytes;                         // announced and not in yet, or the other way round
  uint32_t arrivals : 12, missing : 12;  // of a phase, and of the one that runs
  uint32_t phase : 1, made : 7;
};
static_assert(sizeof(Barrier) == 8, "a barrier has 8 bytes");

constexpr uint32_t kMade = 0x2a;
constexpr uint32_t kMostArrivals = 4095;

struct Copy {
  uint8_t* to;
  const void* from;
  uint32_t bytes;
  Barrier* barrier;
};

std::vector<Copy> under_way;

Barrier* barrier_at(uint32_t address) {
  auto* barrier = reinterpret_cast<Barrier*>(from_shared_address(address));
  if (address % 8 != 0 || barrier->made != kMade) fail("no mbarrier at shared address %u", address);
  return barrier;
}

void end_phase_if_complete(Barrier* barrier) {
  if (barrier->missing > 0 || barrier->bytes != 0) return;
  barrier->missing = barrier->arrivals;
  barrier->phase ^= 1;
  races::barrier_complete(to_shared_address(barrier));
  wake(barrier);
}

void complete_copies(Barrier* barrier) {
  auto mine = [barrier](const Copy& copy) { return copy.barrier == barrier; };
  for (const Copy& copy : under_way) {
    if (!mine(copy)) continue;
    memcpy(copy.to, copy.from, copy.bytes);
    barrier->bytes -= static_cast<int32_t>(copy.bytes);
  }
  under_way.erase(std::remove_if(under_way.begin(), under_way.end(), mine), under_way.end());
  end_phase_if_complete(barrier);
}

// Copies of 16 bytes, as one thread has started them.
struct SmallCopy {
  uint8_t* to;
  const void* from;
  uint32_t bytes;
  int group;
};

struct ThreadCopies {
  std::vector<SmallCopy> under_way;
  int group = 0;  // that the next copy belongs to
};

std::map<int, ThreadCopies> small_copies;  // by thread

void check_end() {
  if (!under_way.empty()) fail("the block has ended before its bulk copies");
  for (const auto& [thread, copies] : small_copies)
    if (!copies.under_way.empty()) fail("thread %d has ended before its copies", thread);
  small_copies.clear();
}

}  // namespace

void barrier_init(uint32_t address, uint32_t arrivals) {
  if (address % 8 != 0 || arrivals == 0 || arrivals > kMostArrivals)
    fail("mbarrier at shared address %u for %u arrivals", address, arrivals);
  end_check = check_end;
  races::barrier_init(address, __builtin_return_address(0));
  *reinterpret_cast<Barrier*>(from_shared_address(address)) = {0, arrivals, arrivals, 0, kMade};
}

void barrier_arrive(uint32_t address, uint32_t arrivals, uint32_t expected_bytes) {
  Barrier* barrier = barrier_at(address);
  races::barrier_arrive(address, __builtin_return_address(0));
  if (arrivals == 0 || arrivals > barrier->missing) fail("more arrivals at an mbarrier than its phase has");
  barrier->bytes += static_cast<int32_t>(expected_bytes);
  barrier->missing -= arrivals;
  end_phase_if_complete(barrier);
}

void barrier_wait(uint32_t address, uint32_t parity) {
  Barrier* barrier = barrier_at(address);
  while (barrier->phase == parity) {
    complete_copies(barrier);
    if (barrier->phase == parity)
      wait_on(parity ? "an mbarrier, for parity 1" : "an mbarrier, for parity 0", barrier, __builtin_return_address(0));
  }
  races::barrier_waited(address, __builtin_return_address(0));
}

void bulk_copy(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier) {
  if (to % 16 != 0 || reinterpret_cast<uintptr_t>(from) % 16 != 0 || bytes % 16 != 0)
    fail("bulk copy of %u bytes from %p to shared address %u: not multiples of 16", bytes, from, to);
  uint8_t* target = from_shared_address(to);
  races::bulk_copy(target, from, bytes, barrier, __builtin_return_address(0));
  memset(target, 0xff, bytes);
  under_way.push_back({target, from, bytes, barrier_at(barrier)});
  if (has_waiters(barrier_at(barrier))) complete_copies(barrier_at(barrier));
}

void copy_16(uint32_t to, const void* from, uint32_t bytes) {
  if (to % 16 != 0 || reinterpret_cast<uintptr_t>(from) % 16 != 0 || bytes > 16)
    fail("copy of %u bytes from %p to shared address %u: not multiples of 16", bytes, from, to);
  end_check = check_end;
  const void* code = __builtin_return_address(0);
  races::group_access(races::Group::kCopies, from_shared_address(to), 16, races::kWrite, code);
  races::group_access(races::Group::kCopies, from, bytes, races::kRead, code);
  memset(from_shared_address(to), 0xff, 16);
  ThreadCopies& copies = small_copies[thread_number()];
  copies.under_way.push_back({from_shared_address(to), from, bytes, copies.group});
}

void end_copy_group() {
  small_copies[thread_number()].group++;
  races::end_group(races::Group::kCopies);
}

void wait_for_copy_groups(int newest) {
  races::wait_for_groups(races::Group::kCopies, newest);
  ThreadCopies& copies = small_copies[thread_number()];
  auto is_due = [&](const SmallCopy& copy) { return copy.group < copies.group - newest; };
  for (const SmallCopy& copy : copies.under_way) {
    if (!is_due(copy)) continue;
    memset(copy.to, 0, 16);
    memcpy(copy.to, copy.from, copy.bytes);
  }
  copies.under_way.erase(std::remove_if(copies.under_way.begin(), copies.under_way.end(), is_due),
                         copies.under_way.end());
}

}  // namespace spkv_emulator
