// Splits the items of one operation over the cores.
//
// The thread that calls `run` takes part, so a pool of one thread has no helpers. Items are handed out one by
// one; the caller never waits for a helper that has not taken an item, so a helper that the system has put
// aside delays nobody. Helpers spin for a short while after the last item, then yield, then sleep: operations
// of one decode step follow each other within microseconds and find the helpers awake.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace spkv {

class ThreadPool {
 public:
  using Body = void (*)(void* context, int64_t item, int thread);
  static constexpr int64_t kMaxItems = (int64_t{1} << 24) - 1024;

  // `pin` gives every thread, the caller of `attach` included, a core of its own where there are enough.
  ThreadPool(int threads, bool pin);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;

  // Called once by the thread that will call `run`.
  void attach();

  int threads() const { return static_cast<int>(helpers_.size()) + 1; }

  // Calls body(context, item, thread) once for every item in [0, items), and returns when all are done.
  // `thread` is in [0, threads()): index per-thread scratch with it.
  void run(int64_t items, Body body, void* context);

  // Number of physical cores that this process may use.
  static int physical_cores();
  // The same, or what the quota of its container amounts to where that is less.
  static int default_threads();

 private:
  void help(int thread);
  bool take_and_run(int thread);

  // One word describes the current job, so that it can be read and advanced in one step:
  // bits 48..63 job number, 24..47 number of items, 0..23 next item.
  std::atomic<uint64_t> ticket_{0};
  std::atomic<int64_t> done_{0};
  Body body_ = nullptr;
  void* context_ = nullptr;

  std::atomic<bool> stop_{false};
  std::atomic<int> sleeping_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<int> cores_;
  std::vector<std::thread> helpers_;
};

}  // namespace spkv
