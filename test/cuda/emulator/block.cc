#include "emulator/block.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "emulator/fiber.h"
#include "emulator/races.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, bytes) ((void)0)
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes) ((void)0)
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace spkv_emulator {

EndCheck end_check = nullptr;

namespace {

constexpr int kThreads = 1024, kWarps = kThreads / 32, kBarriers = 16;
constexpr size_t kGuardBytes = 4096;
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kStackBytes = 512 * 1024;
#else
constexpr size_t kStackBytes = 128 * 1024;
#endif
constexpr size_t kArenaBytes = 228 * 1024;

struct Thread {
  Fiber fiber;
  uint3 index;
  bool done;
  const char* waits;    // what for, or null
  const void *address, *code;  // of wait_on
  uint32_t mask;        // of a meeting
  void* record;
  Complete complete;
  bool orders;
};

struct Barrier {
  int threads = 0, arrived = 0;
  races::Meeting meeting;
};

// The emulated device runs one kernel at a time.
std::mutex running;
const Launch* launch_ = nullptr;
Fiber host;
Thread threads[kThreads];
Thread* current = nullptr;
int thread_count = 0, live_count = 0;
uint32_t live[kWarps], meeting[kWarps];  // lanes
Barrier barriers[kBarriers];
std::vector<int> ready;  // threads that can go on, in order, from `next_ready`
size_t next_ready = 0;

// Not at the start of the arena, because kernels may count on 16 bytes only.
constexpr size_t kDynamicOffset = 16;
alignas(4096) uint8_t arena[kDynamicOffset + kArenaBytes];

int number_of(const Thread* thread) { return static_cast<int>(thread - threads); }

void make_ready(Thread* thread) {
  thread->waits = nullptr;
  ready.push_back(number_of(thread));
}

// Leaves the fiber that is running for the next thread that can go on, or for the host when there is none.
void go_on_from(Fiber* from) {
  if (next_ready == ready.size()) {
    current = nullptr;
    if (from != &host) host.resume_from(from);
    return;
  }
  current = &threads[ready[next_ready++]];
  if (next_ready == 4096) {
    ready.erase(ready.begin(), ready.begin() + 4096);
    next_ready = 0;
  }
  threadIdx = current->index;
  if (&current->fiber != from) current->fiber.resume_from(from);
}

void suspend() { go_on_from(&current->fiber); }

// Ends a meeting if everybody is there.
void try_complete(int warp, uint32_t mask) {
  uint32_t lanes = mask & live[warp];
  if (lanes == 0 || (meeting[warp] & lanes) != lanes) return;
  void* records[32] = {};
  Thread* first = &threads[warp * 32 + __builtin_ctz(lanes)];
  for (int i = 0; i < 32; i++) {
    if (!(lanes >> i & 1)) continue;
    Thread* thread = &threads[warp * 32 + i];
    if (thread->mask != mask || (thread->waits != first->waits && strcmp(thread->waits, first->waits) != 0))
      fail("the lanes of warp %d part: lane %d is at %s of %08x, lane %d at %s of %08x", warp,
           __builtin_ctz(lanes), first->waits, first->mask, i, thread->waits, thread->mask);
    records[i] = thread->record;
  }
  {
    races::Pause pause;
    first->complete(records);
  }
  if (first->orders) races::meet(warp * 32, lanes);
  meeting[warp] &= ~lanes;
  for (int i = 0; i < 32; i++)
    if (lanes >> i & 1) make_ready(&threads[warp * 32 + i]);
}

void try_release(int id) {
  Barrier& barrier = barriers[id];
  int needed = barrier.threads > 0 ? barrier.threads : live_count;
  if (barrier.arrived == 0 || barrier.arrived < needed) return;
  barrier.threads = barrier.arrived = 0;
  barrier.meeting.complete();
  wake(&barrier);
}

void thread_ends() {
  int number = number_of(current), warp = number / 32;
  current->done = true;
  live_count--;
  live[warp] &= ~(1u << number % 32);
  if (meeting[warp] != 0) try_complete(warp, threads[warp * 32 + __builtin_ctz(meeting[warp])].mask);
  if (barriers[0].threads == 0) try_release(0);
}

void thread_main() {
  current->fiber.arrived();
  while (true) {
    launch_->thread(launch_->closure);
    thread_ends();
    suspend();
  }
}

void prepare_fibers(int count) {
  static int prepared = 0;
  static uint8_t* stacks = nullptr;
  size_t stride = kGuardBytes + kStackBytes;
  if (!stacks) {
    void* memory = mmap(nullptr, stride * kThreads, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) fail("no memory for the stacks of threads");
    stacks = static_cast<uint8_t*>(memory);
  }
  for (; prepared < count; prepared++) {
    uint8_t* guard = stacks + stride * static_cast<size_t>(prepared);
    if (mprotect(guard, kGuardBytes, PROT_NONE) != 0) fail("no guard page for a stack");
    threads[prepared].fiber.prepare(guard + kGuardBytes, kStackBytes, thread_main);
  }
}

std::string place_of(const Thread& thread) {
  std::string place = thread.waits;
  if (!thread.code) return place;
  return place + " (shared address " + std::to_string(to_shared_address(thread.address)) + ", in " +
         races::source_of(thread.code) + ")";
}

std::string describe_waiting() {
  std::map<std::string, std::vector<int>> waiting;
  for (int i = 0; i < thread_count; i++)
    if (!threads[i].done) waiting[place_of(threads[i])].push_back(i);
  std::string text;
  for (const auto& [what, numbers] : waiting) {
    text += "\n  " + std::to_string(numbers.size()) + " threads wait at " + what + ":";
    for (size_t i = 0; i < numbers.size() && i < 12; i++) text += " " + std::to_string(numbers[i]);
    if (numbers.size() > 12) text += " ...";
  }
  return text;
}

// The order in which `count` things start.
std::vector<int64_t> start_order(int64_t count) {
  static const char* order = getenv("SPKV_EMULATED_ORDER");
  std::vector<int64_t> numbers(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; i++) numbers[static_cast<size_t>(i)] = i;
  if (!order || strcmp(order, "forward") == 0) return numbers;
  if (strcmp(order, "reverse") == 0) {
    std::reverse(numbers.begin(), numbers.end());
  } else {
    static std::mt19937_64 random(strtoull(order, nullptr, 10));
    std::shuffle(numbers.begin(), numbers.end(), random);
  }
  return numbers;
}

void begin_block() {
  live_count = thread_count;
  for (int warp = 0; warp < kWarps; warp++) {
    int lanes = std::clamp(thread_count - warp * 32, 0, 32);
    live[warp] = lanes == 32 ? ~0u : (1u << lanes) - 1;
    meeting[warp] = 0;
  }
  std::fill(std::begin(barriers), std::end(barriers), Barrier());
  memset(dynamic_shared(), 0xff, launch_->shared_bytes);
  ready.clear();
  next_ready = 0;
  for (int64_t i : start_order(thread_count)) {
    Thread& thread = threads[i];
    unsigned number = static_cast<unsigned>(i);
    thread.index = {number % blockDim.x, number / blockDim.x % blockDim.y, number / blockDim.x / blockDim.y};
    thread.done = false;
    thread.address = thread.code = nullptr;
    make_ready(&thread);
  }
}

void run_block() {
  begin_block();
  races::begin_block(thread_count, blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z));
  go_on_from(&host);
  races::end_block();
  if (live_count > 0) fail("deadlock%s", describe_waiting().c_str());
  if (end_check) end_check();
}

}  // namespace

void run(const Launch& launch) {
  std::lock_guard<std::mutex> lock(running);
  launch_ = &launch;
  blockDim = launch.block;
  gridDim = launch.grid;
  thread_count = static_cast<int>(launch.block.x * launch.block.y * launch.block.z);
  if (thread_count > kThreads || launch.shared_bytes > kArenaBytes) fail("a launch that is too large");
  prepare_fibers(thread_count);
  host.prepare_thread();
  races::begin_shared_memory();
  races::begin_launch(launch.early);
  ASAN_POISON_MEMORY_REGION(arena, sizeof(arena));
  ASAN_UNPOISON_MEMORY_REGION(dynamic_shared(), launch.shared_bytes);
  int64_t plane = int64_t{gridDim.x} * gridDim.y;
  for (int64_t i : start_order(plane * gridDim.z)) {
    blockIdx = {static_cast<unsigned>(i % gridDim.x), static_cast<unsigned>(i / gridDim.x % gridDim.y),
                static_cast<unsigned>(i / plane)};
    run_block();
  }
  launch_ = nullptr;
}

void fail(const char* format, ...) {
  char message[4096];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof(message), format, arguments);
  va_end(arguments);
  fprintf(stderr, "CUDA emulator: %s\n", message);
  if (launch_)
    fprintf(stderr, "  in block (%u, %u, %u) of the launch [%u, %u, %u] x [%u, %u, %u], %s\n", blockIdx.x,
            blockIdx.y, blockIdx.z, gridDim.x, gridDim.y, gridDim.z, blockDim.x, blockDim.y, blockDim.z,
            launch_->parameters);
  if (current) fprintf(stderr, "  thread (%u, %u, %u)\n", threadIdx.x, threadIdx.y, threadIdx.z);
  abort();
}

void meet(const char* what, uint32_t mask, void* record, Complete complete, bool orders) {
  int number = number_of(current), warp = number / 32;
  if (!(mask >> number % 32 & 1)) fail("%s of %08x by lane %d", what, mask, number % 32);
  current->waits = what;
  current->mask = mask;
  current->record = record;
  current->complete = complete;
  current->orders = orders;
  meeting[warp] |= 1u << number % 32;
  try_complete(warp, mask);
  suspend();
}

uint32_t live_lanes() { return live[number_of(current) / 32]; }

void wait_on(const char* what, const void* address, const void* code) {
  current->waits = what;
  current->address = address;
  current->code = code;
  suspend();
  current->address = current->code = nullptr;
}

void wake(const void* address) {
  for (int i = 0; i < thread_count; i++) {
    if (threads[i].waits && !threads[i].done && threads[i].address == address) {
      threads[i].address = nullptr;
      make_ready(&threads[i]);
    }
  }
}

bool has_waiters(const void* address) {
  return std::any_of(threads, threads + thread_count, [address](const Thread& thread) {
    return thread.waits && !thread.done && thread.address == address;
  });
}

void block_barrier(const char* what, int id, int count, bool wait) {
  Barrier& barrier = barriers[id];
  if (barrier.arrived > 0 && barrier.threads != count)
    fail("%s: barrier %d is for %d threads to one, for %d to another", what, id, barrier.threads, count);
  barrier.threads = count;
  barrier.arrived++;
  barrier.meeting.arrive(number_of(current));
  current->waits = what;
  current->address = wait ? &barrier : nullptr;
  try_release(id);
  if (wait) {
    suspend();
    barrier.meeting.leave(number_of(current));
  } else {
    current->waits = nullptr;
  }
}

uint8_t* dynamic_shared() { return arena + kDynamicOffset; }

uint32_t to_shared_address(const void* pointer) {
  int64_t offset = static_cast<const uint8_t*>(pointer) - arena;
  if (offset != static_cast<int32_t>(offset)) fail("%p is not in shared memory", pointer);
  return static_cast<uint32_t>(offset);
}

uint8_t* from_shared_address(uint32_t address) { return arena + static_cast<int32_t>(address); }

}  // namespace spkv_emulator
