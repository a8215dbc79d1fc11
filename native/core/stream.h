// An ordered queue of work with a thread of its own.
//
// Commands run one after another. They come in submissions: when a command fails, or its submission is
// cancelled, the rest of that submission is skipped, and requests in it (which somebody waits for) report the
// failure. So a program that submits a hundred operations and then reads a result gets the error of the
// operation that failed, never a result computed from garbage, and the submissions of others go on.
//
// Work enqueued outside of any submission belongs to a common one, which would stay failed for ever; it is
// cleared as soon as the caller has been told, that is when `acknowledge` names that failure.
//
// On an accelerator a command has only been enqueued when it returns. What fails there is found out before
// the next request is answered and before work of another submission begins.
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

class Accelerator;

// What a running command may use: threads on the CPU, an accelerator elsewhere.
struct Execution {
  ThreadPool* pool = nullptr;
  Accelerator* accelerator = nullptr;
  // Set by the stream: whether it ends, and whether the work under way has been cancelled.
  const std::atomic<bool>* stopping = nullptr;
  const std::atomic<bool>* cancelled = nullptr;

  // For long commands, which look now and then.
  Status check() const;
};

using Command = std::function<Status(Execution&)>;

// A recorded run of commands that can be enqueued again and again at the price of one.
struct Graph {
  std::vector<Command> commands;
  mutable std::shared_ptr<void> compiled;  // what the accelerator made of it; stream thread only
};

// A device on which commands only enqueue: they have run when `finish` returns. All calls come from the
// stream's thread.
class Accelerator {
 public:
  virtual ~Accelerator() = default;
  // Waits for everything enqueued. The first failure among it, reported once.
  virtual Status finish() = 0;
  // Runs a graph. `check` says whether to go on, before every command that is run one by one.
  virtual Status launch(const Graph& graph, Execution& execution, const std::function<bool()>& check) = 0;
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
  void finish_accelerator();
  bool take(Entry* entry);

  Execution execution_;
  std::shared_ptr<Graph> capture_;

  std::shared_ptr<Submission> common_ = std::make_shared<Submission>();
  std::shared_ptr<Submission> current_ = common_;  // JavaScript thread only
  std::shared_ptr<Submission> running_ = common_;  // stream thread only: whose work the accelerator has
  bool unfinished_ = false;  // stream thread only: whether it has been given any since it was last waited for

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
