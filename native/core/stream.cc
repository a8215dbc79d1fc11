#include "core/stream.h"

#include <chrono>
#include <utility>

namespace spkv {
namespace {

using Clock = std::chrono::steady_clock;
// A program that reads one result and enqueues the next step comes back within this time, also where the
// result is the tokens of many texts: to be woken would add to every step.
constexpr auto kAwake = std::chrono::microseconds(500);

}  // namespace

Status Execution::check() const {
  bool gone = (stopping && stopping->load(std::memory_order_relaxed)) ||
              (cancelled && cancelled->load(std::memory_order_relaxed));
  return gone ? fail(Code::kAborted, "The work was cancelled") : Status();
}

Stream::Stream(Execution execution, std::function<void()> start) : execution_(execution) {
  execution_.stopping = &stop_;
  thread_ = std::thread([this, start = std::move(start)] {
    if (start) start();
    work();
  });
}

Stream::~Stream() { stop(); }

void Stream::stop() {
  if (!thread_.joinable()) return;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void Stream::push(Entry entry) {
  entry.submission = current_;
  bool wake;
  {
    std::lock_guard<std::mutex> lock(mutex_);
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

std::shared_ptr<Submission> Stream::begin_submission() { return current_ = std::make_shared<Submission>(); }

void Stream::end_submission() { current_ = common_; }

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

// What the accelerator has been given belongs to `running_`; so does what goes wrong with it.
void Stream::finish_accelerator() {
  if (!execution_.accelerator) return;
  Status status = execution_.accelerator->finish();
  if (status.ok() || !running_->failure.ok()) return;
  running_->failure = status;
  running_->failure_number++;
}

void Stream::execute(Entry& entry) {
  Submission& submission = *entry.submission;
  if (entry.acknowledged != 0) {
    if (entry.acknowledged == common_->failure_number) common_->failure = Status();
    return;
  }
  auto start = Clock::now();
  if (entry.done || running_ != entry.submission) finish_accelerator();
  running_ = entry.submission;
  execution_.cancelled = &submission.cancelled;
  auto check = [&] {
    if (submission.failure.ok()) submission.failure = execution_.check();
    return submission.failure.ok();
  };
  auto run = [&](const Command& command) {
    if (!check()) return;
    Status status = command(execution_);
    if (status.ok()) return;
    submission.failure = status;
    submission.failure_number++;
  };

  if (entry.graph && execution_.accelerator) {
    run([&](Execution& execution) { return execution.accelerator->launch(*entry.graph, execution, check); });
  } else if (entry.graph) {
    for (const Command& command : entry.graph->commands) run(command);
  } else if (!entry.done) {
    run(entry.command);
  } else if (entry.always) {
    entry.done(entry.command(execution_), 0);
  } else if (check()) {
    entry.done(entry.command(execution_), 0);
  } else {
    entry.done(submission.failure, &submission == common_.get() ? submission.failure_number : 0);
  }
  busy_.fetch_add(static_cast<uint64_t>(
                      std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count()),
                  std::memory_order_relaxed);
}

}  // namespace spkv
