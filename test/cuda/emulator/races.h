// Finds data races. In a build for it (scripts/build-emulated-cuda.mjs --races) the compiler reports every
// access of the kernels to memory, through the calls that it makes for ThreadSanitizer (race_accesses.cc),
// and the emulator every synchronisation. Two accesses to the same bytes, one of them a write, have to be
// ordered by what CUDA promises, whatever order they ran in; so one run finds the races of all schedules that
// take the same path.
//
// What orders:
//   __syncthreads, named barriers    what their threads did before, and what they do after
//   __syncwarp                       the same; shuffles, votes and matrix instructions do not
//   mbarriers                        what came before an arrival, and what comes after a wait for its phase
//   __threadfence with atomics       what came before the fence and its atomic, and what comes after another
//                                    atomic that has seen it, and its fence; in the scope of the fence
//   copies, matrix instructions      are agents of their own: they begin after what their thread did before,
//                                    and end for those who have waited for the mbarrier or the group
//   publish_shared                   writes of threads, and accesses to them by copies, matrix instructions
//   launches                         all of one, and all of the next; of one that begins early, only what
//                                    comes after wait_for_previous_launch
//
// Atomic accesses do not race with one another, nor do volatile ones. Streams count as one, and what the host
// accesses is not looked at. In other builds nothing here does anything.
//
// SPKV_EMULATED_RACES=racecheck in the environment tells what NVIDIA's racecheck does, which follows less:
// mbarriers one after another, but __syncwarp, __syncthreads and named barriers only between those who were
// there. Who arrives at an mbarrier for others, having met them at one of these, arrives for itself alone. It
// looks at shared memory, and there not at what matrix instructions and bulk additions read; copies of 16
// bytes are their thread's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace spkv_emulator {
namespace races {

struct Clock;  // race_clock.h
using ClockRef = std::shared_ptr<const Clock>;

struct Observer;  // race_shadow.h
class Check;

enum Access : uint8_t { kRead = 0, kWrite = 1, kAtomic = 2, kAtomicWrite = 3 };

// --- What runs. Memory of the device is that between begin_memory and end_memory, of pages of its own.
constexpr size_t kPageBytes = 4096;
bool on();
extern bool like_racecheck;
void begin_memory(const void* pointer, size_t bytes);
void end_memory(const void* pointer, size_t bytes);
void begin_shared_memory();
void begin_launch(bool early);
void begin_block(int threads, uint32_t block);
void end_block();
void order_launches();  // the next launch comes after all so far
void wait_for_previous_launch();
void allow_next_launch();

// --- What threads access. All are of the thread that runs, unless `paused`.
extern bool watching;  // whether a thread of a kernel runs
void access(const void* at, size_t bytes, Access kind, const void* code);
// While it lives, what the thread does is part of the emulator.
class Pause {
 public:
  Pause();
  ~Pause();
  Pause(const Pause&) = delete;

 protected:
  const bool was_watching_;
};
class AtomicAccess : Pause {
 public:
  AtomicAccess(const void* at, size_t bytes);
};
// The place in the kernel that this is called from.
const void* here();

// --- What orders threads.

// What somebody has seen, and what of it is there for copies and matrix instructions, too.
struct View {
  ClockRef seen, published;
  ClockRef met;  // what those did with whom it met, where that goes no further

  void include(const View& other);
  bool operator==(const View& other) const { return seen == other.seen && published == other.published; }
};

// Those who arrive, and those who come after all of them.
class Meeting {
 public:
  explicit Meeting(bool goes_on = !like_racecheck) : goes_on_(goes_on) {}
  void arrive(int thread);
  // With `agent`, that has come to this epoch. What has arrived so far stays, if it is to be kept.
  void complete(bool keep = false, uint32_t agent = 0, uint32_t epoch = 0);
  void leave(int thread) const;

 private:
  bool goes_on_;  // tells what those who arrive have seen, too
  std::shared_ptr<Clock> seen_, published_;
  View last_, all_;
};
void meet(int first_thread, uint32_t lanes);
enum class Scope { kBlock, kDevice };
void fence(Scope scope);
void publish_shared();

// --- Agents that run beside the threads.

void barrier_init(uint32_t barrier, const void* code);
void barrier_arrive(uint32_t barrier, const void* code);
void barrier_complete(uint32_t barrier);
void barrier_waited(uint32_t barrier, const void* code);
void bulk_copy(const void* to, const void* from, size_t bytes, uint32_t barrier, const void* code);

// In groups that the thread waits for, but for the results of bulk additions: those are there at the end.
enum class Group { kCopies, kBulkReads, kBulkResults, kCount };
void group_access(Group group, const void* at, size_t bytes, Access kind, const void* code);
void end_group(Group group);
void wait_for_groups(Group group, int newest);

// What the matrix instruction of a warp reads, for all of its lanes.
class MatrixReads {
 public:
  MatrixReads(int first_thread, const void* code);
  ~MatrixReads();
  void add(const void* at, size_t bytes);

 private:
  std::vector<Observer> observers_;  // lanes that have not all seen the same
  std::unique_ptr<Check> check_;
};
void end_matrix_group();
void wait_for_matrix_groups(int newest);

// Where in the sources code was called from, innermost first; the place in its library where that is not
// known.
std::string source_of(const void* code);

// --- What was found, since the last call. What nobody has taken ends the process with an error.
std::vector<std::string> take_reports();

}  // namespace races
}  // namespace spkv_emulator
