#include "cpu/scratch.h"

#include <cstdlib>

namespace spkv {
namespace cpu {
namespace {

// A stream's thread has one of these; it goes when the thread ends.
struct Buffer {
  void* data = nullptr;
  int64_t bytes = 0;
  ~Buffer() { free(data); }
};

thread_local Buffer buffer;

// A buffer beyond this goes back to the system once a call needs far less.
constexpr int64_t kKeep = int64_t{64} << 20;

}  // namespace

void* scratch(int64_t bytes) {
  bool wasteful = buffer.bytes > kKeep && bytes < buffer.bytes / 4;
  if (bytes <= buffer.bytes && !wasteful) return buffer.data;
  // Growing by half at least, so that a growing context does not allocate at every step.
  int64_t size =
      wasteful || bytes > buffer.bytes + buffer.bytes / 2 ? bytes : buffer.bytes + buffer.bytes / 2;
  size = (size + 4095) / 4096 * 4096;
  free(buffer.data);
  buffer.bytes = 0;
  if (posix_memalign(&buffer.data, 64, static_cast<size_t>(size)) != 0) {
    buffer.data = nullptr;
    return nullptr;
  }
  buffer.bytes = size;
  return buffer.data;
}

Status no_scratch(int64_t bytes) {
  return fail(Code::kOutOfMemory, "No %lld bytes for intermediate results", static_cast<long long>(bytes));
}

}  // namespace cpu
}  // namespace spkv
