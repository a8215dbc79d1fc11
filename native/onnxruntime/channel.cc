#include "onnxruntime/channel.h"

#if !defined(_WIN32)
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "onnxruntime/library.h"

namespace spkv {
namespace onnxruntime {
namespace {

// How often a wait looks whether the stream ends.
constexpr int kLookMilliseconds = 20;

struct Request {
  uint32_t part, tokens, rows, zero;
  uint64_t bytes;
};

struct Answer {
  uint32_t failed, zero;
  uint64_t bytes;
};

int64_t bytes_of(const std::vector<View>& views) {
  int64_t bytes = 0;
  for (const View& view : views) bytes += view.size() * dtype_bytes(view.dtype);
  return bytes;
}

}  // namespace

#if defined(_WIN32)

std::shared_ptr<Channel> Channel::open(Status* status) {
  *status = fail(Code::kNative, "Graphs in parts are not supported on Windows");
  return nullptr;
}
Channel::~Channel() {}
void Channel::close_far_end() {}
Status Channel::wait(short, Execution&) { return failure_; }
Status Channel::write(const void*, int64_t, Execution&) { return failure_; }
Status Channel::read(void*, int64_t, Execution&) { return failure_; }

#else

#if defined(MSG_NOSIGNAL)
constexpr int kSendFlags = MSG_NOSIGNAL | MSG_DONTWAIT;
#else
constexpr int kSendFlags = MSG_DONTWAIT;  // Node ignores the signal that a closed end sends
#endif

std::shared_ptr<Channel> Channel::open(Status* status) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) {
    *status = fail(Code::kNative, "Could not make a pair of sockets: %s", strerror(errno));
    return nullptr;
  }
  // Large enough that a decode step never waits for the other side to read.
  int size = 1 << 20;
  for (int end : ends) {
    // Other processes that are started must not keep an end open.
    fcntl(end, F_SETFD, FD_CLOEXEC);
    setsockopt(end, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    setsockopt(end, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
  }
  return std::shared_ptr<Channel>(new Channel(ends[0], ends[1]));
}

Channel::~Channel() {
  close_far_end();
  ::close(near_);
}

void Channel::close_far_end() {
  if (far_ >= 0) ::close(far_);
  far_ = -1;
}

// Until the other side is ready for it.
Status Channel::wait(short events, Execution& execution) {
  for (;;) {
    pollfd entry = {near_, events, 0};
    int ready = poll(&entry, 1, kLookMilliseconds);
    if (ready > 0) return Status();
    if (ready < 0 && errno != EINTR) return fail(Code::kOnnxruntime, "poll failed: %s", strerror(errno));
    // An exchange is finished even if nobody wants its result any more: the next one comes over the same way.
    bool ends = execution.stopping && execution.stopping->load(std::memory_order_relaxed);
    if (ends || !greeted_) SPKV_RETURN_IF_ERROR(execution.check());
  }
}

Status Channel::write(const void* data, int64_t bytes, Execution& execution) {
  auto next = static_cast<const char*>(data);
  while (bytes > 0) {
    ssize_t sent = send(near_, next, static_cast<size_t>(bytes), kSendFlags);
    if (sent > 0) {
      next += sent;
      bytes -= sent;
    } else if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      SPKV_RETURN_IF_ERROR(wait(POLLOUT, execution));
    } else if (errno != EINTR) {
      return fail(Code::kOnnxruntime, "The process that runs onnxruntime has ended");
    }
  }
  return Status();
}

Status Channel::read(void* data, int64_t bytes, Execution& execution) {
  auto next = static_cast<char*>(data);
  while (bytes > 0) {
    ssize_t got = recv(near_, next, static_cast<size_t>(bytes), MSG_DONTWAIT);
    if (got > 0) {
      next += got;
      bytes -= got;
    } else if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      SPKV_RETURN_IF_ERROR(wait(POLLIN, execution));
    } else if (got == 0 || errno != EINTR) {
      return fail(Code::kOnnxruntime, "The process that runs onnxruntime has ended");
    }
  }
  return Status();
}

#endif

// What was half sent or read cannot be taken up again.
Status Channel::broken(Status status) {
  if (!status.ok()) failure_ = status;
  return status;
}

// The head of an answer; for a failure, the message as a status.
Status Channel::answer(int64_t expected, Execution& execution) {
  Answer head;
  SPKV_RETURN_IF_ERROR(broken(read(&head, sizeof head, execution)));
  if (!head.failed) {
    if (static_cast<int64_t>(head.bytes) == expected) return Status();
    return broken(fail(Code::kOnnxruntime, "A part gave %lld bytes but its outputs have %lld",
                       static_cast<long long>(head.bytes), static_cast<long long>(expected)));
  }
  std::vector<char> message(head.bytes + 1);
  SPKV_RETURN_IF_ERROR(broken(read(message.data(), static_cast<int64_t>(head.bytes), execution)));
  // What matters most stands at the end, behind paths.
  constexpr size_t kMost = 200;
  size_t skip = head.bytes > kMost ? head.bytes - kMost : 0;
  return fail(code_of(message.data()), "%s%s", skip > 0 ? "..." : "", message.data() + skip);
}

Status Channel::greet(Execution& execution) {
  SPKV_RETURN_IF_ERROR(failure_);
  SPKV_RETURN_IF_ERROR(broken(answer(0, execution)));
  greeted_ = true;
  return Status();
}

Status Channel::request(const ExchangeParams& params, Execution& execution) {
  Request head = {params.part, params.tokens, params.rows, 0, static_cast<uint64_t>(bytes_of(params.inputs))};
  SPKV_RETURN_IF_ERROR(write(&head, sizeof head, execution));
  for (const View& view : params.inputs)
    SPKV_RETURN_IF_ERROR(write(view.data, view.size() * dtype_bytes(view.dtype), execution));
  return Status();
}

Status Channel::exchange(const ExchangeParams& params, Execution& execution) {
  SPKV_RETURN_IF_ERROR(failure_);
  SPKV_RETURN_IF_ERROR(broken(request(params, execution)));
  SPKV_RETURN_IF_ERROR(answer(bytes_of(params.outputs), execution));
  for (const View& view : params.outputs)
    SPKV_RETURN_IF_ERROR(broken(read(view.data, view.size() * dtype_bytes(view.dtype), execution)));
  return Status();
}

}  // namespace onnxruntime
}  // namespace spkv
