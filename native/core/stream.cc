#include "core/stream.h"

#include <chrono>
#include <utility>

namespace spkv {
namespace {

using Clock = std::chrono::steady_clock;
// A program that reads one result and enqueues the next step comes back within this time.
constexpr auto kAwake = std::chrono::microseconds(100);

}  // namespace

Stream::Stream(Execution execution, std::function<void()> start) : execution_(execution) {
  thread_ = std::thread([this, start = std::move(start)] {
    if (start) start();
    work();
  });
}

Stream::~Stream() { stop(); }

void Stream::stop() {
  if (!thread_.joinable()) return;
  cancel();
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void Stream::push(Entry entry) {
  bool wake;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    entry.sequence = enqueued_.fetch_add(1, std::memory_order_relaxed) + 1;
    queue_.push_back(std::move(entry));
    waiting_.store(queue_.size(), std::memory_order_release);
    wake = sleeping_;
  }
  if (wake) wake_.notify_one();
}

void Stream::enqueue(Command command) {
  if (capture_) {
    capture_->commands.push_back(std::move(command));
    return;
  }
  Entry entry;
  entry.command = std::move(command);
  push(std::move(entry));
}

void Stream::request(Command command, std::function<void(const Status&, uint64_t)> done, bool always) {
  Entry entry;
  entry.command = std::move(command);
  entry.done = std::move(done);
  entry.always = always;
  push(std::move(entry));
}

void Stream::launch(std::shared_ptr<const Graph> graph) {
  Entry entry;
  entry.graph = std::move(graph);
  push(std::move(entry));
}

void Stream::acknowledge(uint64_t failure) {
  Entry entry;
  entry.acknowledged = failure;
  push(std::move(entry));
}

void Stream::cancel() { cancelled_up_to_.store(enqueued_.load(std::memory_order_relaxed)); }

void Stream::begin_capture() { capture_ = std::make_shared<Graph>(); }

std::shared_ptr<Graph> Stream::end_capture() { return std::exchange(capture_, nullptr); }

bool Stream::take(Entry* entry) {
  auto idle_since = Clock::now();
  while (waiting_.load(std::memory_order_acquire) == 0 && !stop_.load(std::memory_order_relaxed)) {
    if (Clock::now() - idle_since > kAwake) {
      std::unique_lock<std::mutex> lock(mutex_);
      sleeping_ = true;
      wake_.wait(lock, [this] { return !queue_.empty() || stop_.load(); });
      sleeping_ = false;
      break;
    }
    std::this_thread::yield();
  }
  std::lock_guard<std::mutex> lock(mutex_);
  if (queue_.empty()) return false;
  *entry = std::move(queue_.front());
  queue_.pop_front();
  waiting_.store(queue_.size(), std::memory_order_release);
  return true;
}

void Stream::work() {
  for (;;) {
    Entry entry;
    if (take(&entry)) {
      execute(entry);
    } else if (stop_) {
      return;
    }
  }
}

void Stream::execute(Entry& entry) {
  if (entry.acknowledged != 0) {
    if (entry.acknowledged == failure_number_) failure_ = Status();
    return;
  }
  auto start = Clock::now();
  auto cancelled = [&] { return entry.sequence <= cancelled_up_to_.load(std::memory_order_relaxed); };
  auto note = [&](const Status& status) {
    if (status.ok() || !failure_.ok()) return;
    failure_ = status;
    failure_number_++;
  };
  auto run = [&](const Command& command) {
    if (!failure_.ok()) return;
    note(cancelled() ? fail(Code::kAborted, "The work was cancelled") : command(execution_));
  };

  if (entry.graph) {
    for (const Command& command : entry.graph->commands) run(command);
  } else if (entry.done == nullptr) {
    run(entry.command);
  } else if (entry.always) {
    entry.done(entry.command(execution_), 0);
  } else {
    Status status = failure_;
    if (status.ok())
      status = cancelled() ? fail(Code::kAborted, "The work was cancelled") : entry.command(execution_);
    entry.done(status, failure_.ok() ? 0 : failure_number_);
  }
  busy_.fetch_add(std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count(),
                  std::memory_order_relaxed);
}

}  // namespace spkv
