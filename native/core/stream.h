// An ordered queue of work with a thread of its own.
//
// Commands run one after another. The first that fails cancels everything behind it: later commands are
// skipped, and requests (which somebody waits for) report the failure, until the caller has been told, that
// is until `acknowledge` names that failure. So a program that enqueues a hundred operations and then reads
// a result gets the error of the operation that failed, never a result computed from garbage.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "core/status.h"

namespace spkv {

class ThreadPool;

// What a running command may use.
struct Execution {
  ThreadPool* pool = nullptr;
  void* device_stream = nullptr;
};

using Command = std::function<Status(Execution&)>;

// A recorded run of commands that can be enqueued again and again at the price of one.
struct Graph {
  std::vector<Command> commands;
};

class Stream {
 public:
  // `start` runs once on the new thread before any command.
  Stream(Execution execution, std::function<void()> start);
  ~Stream();
  Stream(const Stream&) = delete;

  // Work that nobody waits for: skipped after a failure.
  void enqueue(Command command);
  // Work with an answer. `done` is always called, on the stream's thread, with the status and the number of
  // the failure that it reports (0 for none), to be passed to `acknowledge` once the caller knows.
  // With `always`, the command runs even after a failure (freeing must not be skipped).
  void request(Command command, std::function<void(const Status&, uint64_t failure)> done,
               bool always = false);
  void launch(std::shared_ptr<const Graph> graph);
  void acknowledge(uint64_t failure);
  // Skips what is enqueued and ends the thread; nothing runs afterwards.
  void stop();
  // Skips everything that is enqueued now; requests among it report kAborted.
  void cancel();

  // Between the two calls, `enqueue` records instead of running. Reads and other requests are not recorded;
  // the binding refuses them.
  void begin_capture();
  std::shared_ptr<Graph> end_capture();
  bool capturing() const { return capture_ != nullptr; }

  // Nanoseconds spent running commands since the start: the native share of a program's time.
  uint64_t busy_nanoseconds() const { return busy_.load(std::memory_order_relaxed); }

 private:
  struct Entry {
    Command command;
    std::shared_ptr<const Graph> graph;
    std::function<void(const Status&, uint64_t)> done;
    bool always = false;
    uint64_t acknowledged = 0;
    uint64_t sequence = 0;
  };

  void push(Entry entry);
  void work();
  void execute(Entry& entry);
  bool take(Entry* entry);

  Execution execution_;
  std::shared_ptr<Graph> capture_;

  // Stream thread only.
  Status failure_;
  uint64_t failure_number_ = 0;

  std::atomic<uint64_t> busy_{0};
  std::atomic<uint64_t> enqueued_{0};
  std::atomic<uint64_t> cancelled_up_to_{0};
  std::atomic<size_t> waiting_{0};
  std::atomic<bool> stop_{false};
  std::atomic<bool> sleeping_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Entry> queue_;
  std::thread thread_;
};

}  // namespace spkv
