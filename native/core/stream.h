// An ordered queue of work with a thread of its own.
//
// Commands run one after another. They come in submissions: when a command fails, or its submission is
// cancelled, the rest of that submission is skipped, and requests in it (which somebody waits for) report the
// failure. So a program that submits a hundred operations and then reads a result gets the error of the
// operation that failed, never a result computed from garbage, and the submissions of others go on.
//
// Work enqueued outside of any submission belongs to a common one, which would stay failed for ever; it is
// cleared as soon as the caller has been told, that is when `acknowledge` names that failure.
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

// A unit of failure and cancellation.
struct Submission {
  std::atomic<bool> cancelled{false};
  Status failure;               // stream thread only
  uint64_t failure_number = 0;  // counts the failures of the common submission
};

class Stream {
 public:
  // `start` runs once on the new thread before any command.
  Stream(Execution execution, std::function<void()> start);
  ~Stream();
  Stream(const Stream&) = delete;

  // Work that nobody waits for: skipped after a failure.
  void enqueue(Command command);
  // Work with an answer. `done` is always called, on the stream's thread, with the status and, where it
  // reports a failure of the common submission, that failure's number, to be passed to `acknowledge` once the
  // caller knows (else 0). With `always`, the command runs even after a failure (freeing must not be
  // skipped).
  void request(Command command, std::function<void(const Status&, uint64_t failure)> done,
               bool always = false);
  void launch(std::shared_ptr<const Graph> graph);
  void acknowledge(uint64_t failure);
  // What is enqueued between the two calls forms a submission. Calls do not nest.
  std::shared_ptr<Submission> begin_submission();
  void end_submission();
  bool submitting() const { return current_ != common_; }
  // Skips what is enqueued and ends the thread; nothing runs afterwards.
  void stop();

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
    std::shared_ptr<Submission> submission;
    bool always = false;
    uint64_t acknowledged = 0;
  };

  void push(Entry entry);
  void work();
  void execute(Entry& entry);
  bool take(Entry* entry);

  Execution execution_;
  std::shared_ptr<Graph> capture_;

  std::shared_ptr<Submission> common_ = std::make_shared<Submission>();
  std::shared_ptr<Submission> current_ = common_;  // JavaScript thread only

  std::atomic<uint64_t> busy_{0};
  std::atomic<size_t> waiting_{0};
  std::atomic<bool> stop_{false};
  std::atomic<bool> sleeping_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Entry> queue_;
  std::thread thread_;
};

}  // namespace spkv
