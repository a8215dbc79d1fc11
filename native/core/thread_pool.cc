#include "core/thread_pool.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <set>
#include <utility>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace spkv {
namespace {

constexpr uint64_t kIndexMask = (uint64_t{1} << 24) - 1;

uint64_t job_of(uint64_t ticket) { return ticket >> 48; }
uint64_t items_of(uint64_t ticket) { return (ticket >> 24) & kIndexMask; }
uint64_t next_of(uint64_t ticket) { return ticket & kIndexMask; }

constexpr int kSpins = 400;
// Long enough to bridge the gap between two decode steps, short enough not to be seen in an idle process.
constexpr auto kAwake = std::chrono::microseconds(300);
// Others on the same core, the event loop first of all, get their turn after so long. The system itself takes
// a core away from a thread that computes only at a tick, 4 ms apart on most machines. Shorter turns would
// give more than their share to processes that compute all the time.
constexpr auto kTurn = std::chrono::milliseconds(2);

void pause_cpu() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Called between two items, when nobody waits for this thread.
void give_others_a_turn() {
  thread_local auto last = std::chrono::steady_clock::now();
  if (std::chrono::steady_clock::now() - last < kTurn) return;
  std::this_thread::yield();
  last = std::chrono::steady_clock::now();
}

// One core id per physical core that the process may run on; empty where the system does not tell.
std::vector<int> allowed_cores() {
  std::vector<int> cores;
#if defined(__linux__)
  cpu_set_t mask;
  CPU_ZERO(&mask);
  if (sched_getaffinity(0, sizeof mask, &mask) != 0) return cores;
  std::set<std::pair<int, int>> seen;
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    if (!CPU_ISSET(cpu, &mask)) continue;
    int ids[2] = {0, cpu};
    const char* names[2] = {"physical_package_id", "core_id"};
    for (int i = 0; i < 2; i++) {
      char path[96];
      snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/%s", cpu, names[i]);
      if (FILE* file = fopen(path, "r")) {
        if (fscanf(file, "%d", &ids[i]) != 1) ids[i] = i == 0 ? 0 : cpu;
        fclose(file);
      }
    }
    if (seen.insert({ids[0], ids[1]}).second) cores.push_back(cpu);
  }
#endif
  return cores;
}

// Numbers at the beginning of a file, at most two.
int read_numbers(const char* path, double numbers[2]) {
  FILE* file = fopen(path, "r");
  if (!file) return 0;
  int count = fscanf(file, "%lf %lf", &numbers[0], &numbers[1]);
  fclose(file);
  return count;
}

// Cores that the quota of a container amounts to, rounded up; 0 where there is none. Threads beyond it would
// only make each other wait: the system stops all of them once the quota is used up.
int quota_cores() {
  double quota[2] = {0, 0}, period[2] = {0, 0};
  // Version 2 of control groups writes "max" for none, version 1 writes -1.
  if (read_numbers("/sys/fs/cgroup/cpu.max", quota) == 2) {
    period[0] = quota[1];
  } else {
    read_numbers("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", quota);
    read_numbers("/sys/fs/cgroup/cpu/cpu.cfs_period_us", period);
  }
  return quota[0] > 0 && period[0] > 0 ? static_cast<int>(std::ceil(quota[0] / period[0])) : 0;
}

void pin_current_thread(int cpu) {
#if defined(__linux__)
  cpu_set_t mask;
  CPU_ZERO(&mask);
  CPU_SET(cpu, &mask);
  // Best effort: without permission the thread simply stays where the system puts it.
  pthread_setaffinity_np(pthread_self(), sizeof mask, &mask);
#else
  (void)cpu;
#endif
}

}  // namespace

int ThreadPool::physical_cores() {
  int cores = static_cast<int>(allowed_cores().size());
  return cores > 0 ? cores : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

int ThreadPool::default_threads() {
  int cores = physical_cores(), quota = quota_cores();
  return quota > 0 ? std::min(cores, quota) : cores;
}

ThreadPool::ThreadPool(int threads, bool pin) {
  if (pin) cores_ = allowed_cores();
  if (static_cast<int>(cores_.size()) < threads) cores_.clear();
  for (int i = 1; i < threads; i++) helpers_.emplace_back([this, i] { help(i); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (auto& helper : helpers_) helper.join();
}

void ThreadPool::attach() {
  if (!cores_.empty()) pin_current_thread(cores_[0]);
}

void ThreadPool::run(int64_t items, Body body, void* context) {
  if (items <= 1 || helpers_.empty()) {
    for (int64_t i = 0; i < items; i++) {
      body(context, i, 0);
      give_others_a_turn();
    }
    return;
  }
  for (; items > kMaxItems; items -= kMaxItems) {
    // Operations never come near this; it keeps the packed ticket honest.
    for (int64_t i = items - kMaxItems; i < items; i++) body(context, i, 0);
  }
  body_ = body;
  context_ = context;
  done_.store(0, std::memory_order_relaxed);
  uint64_t job = job_of(ticket_.load(std::memory_order_relaxed)) + 1;
  // Sequentially consistent, as is the helpers' announcement that they sleep: one of the two sees the other.
  ticket_.store((job << 48) | (static_cast<uint64_t>(items) << 24));
  if (sleeping_.load() > 0) {
    { std::lock_guard<std::mutex> lock(mutex_); }
    wake_.notify_all();
  }
  while (take_and_run(0)) {
  }
  for (int spins = 0; done_.load(std::memory_order_acquire) != items; spins++) {
    if (spins < kSpins) {
      pause_cpu();
    } else {
      std::this_thread::yield();
    }
  }
}

bool ThreadPool::take_and_run(int thread) {
  uint64_t seen = ticket_.load(std::memory_order_acquire);
  if (next_of(seen) >= items_of(seen)) return false;
  uint64_t mine = ticket_.fetch_add(1, std::memory_order_acq_rel);
  uint64_t item = next_of(mine);
  if (item >= items_of(mine)) return false;
  // An item that is not done keeps its job alive, so body_ and context_ are those of this very job.
  body_(context_, static_cast<int64_t>(item), thread);
  done_.fetch_add(1, std::memory_order_release);
  give_others_a_turn();
  return true;
}

void ThreadPool::help(int thread) {
  if (!cores_.empty()) pin_current_thread(cores_[static_cast<size_t>(thread)]);
  auto last_work = std::chrono::steady_clock::now();
  for (int spins = 0; !stop_.load(std::memory_order_relaxed); spins++) {
    if (take_and_run(thread)) {
      spins = -1;
      continue;
    }
    if (spins < kSpins) {
      if (spins == 0) last_work = std::chrono::steady_clock::now();
      pause_cpu();
      continue;
    }
    if (std::chrono::steady_clock::now() - last_work < kAwake) {
      std::this_thread::yield();
      continue;
    }
    const uint64_t last = ticket_.load();
    if (next_of(last) < items_of(last)) continue;
    std::unique_lock<std::mutex> lock(mutex_);
    sleeping_.fetch_add(1);
    // Wakes for a job even when the others have finished it by then: the next one is near.
    wake_.wait(lock, [this, last] { return stop_.load() || job_of(ticket_.load()) != job_of(last); });
    sleeping_.fetch_sub(1);
    spins = -1;
  }
}

}  // namespace spkv
