// The way to another process that runs the parts of a graph: requests and answers over a pair of sockets.
//
//   request  part, tokens, rows (u32 each), 0; bytes (u64); then the inputs, one after another
//   answer   status (u32: 0, or 1 for a failure), 0; bytes (u64); then the outputs, or a message
//
// Numbers are in the order of bytes of the machine. The other side ends when this one closes.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/stream.h"
#include "core/view.h"

namespace spkv {
namespace onnxruntime {

struct ExchangeParams {
  uint32_t part = 0;
  uint32_t tokens = 0;
  uint32_t rows = 0;
  std::vector<View> outputs;  // contiguous
  std::vector<View> inputs;   // contiguous
};

class Channel {
 public:
  static std::shared_ptr<Channel> open(Status* status);
  ~Channel();
  Channel(const Channel&) = delete;

  // The end that the other process is given, and which is then closed here.
  int far_end() const { return far_; }
  void close_far_end();

  // Both run on the stream's thread, and give up where the stream ends.
  //
  // Waits until the other side has answered that it is ready.
  Status greet(Execution& execution);
  Status exchange(const ExchangeParams& params, Execution& execution);

 private:
  Channel(int near, int far) : near_(near), far_(far) {}
  Status wait(short events, Execution& execution);
  Status write(const void* data, int64_t bytes, Execution& execution);
  Status read(void* data, int64_t bytes, Execution& execution);
  Status answer(int64_t expected, Execution& execution);
  Status request(const ExchangeParams& params, Execution& execution);
  Status broken(Status status);

  int near_;
  int far_;
  bool greeted_ = false;
  Status failure_;  // after which nothing goes through any more
};

}  // namespace onnxruntime
}  // namespace spkv
