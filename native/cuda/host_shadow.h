// What the host knows of small tensors: it remembers what it wrote, so that operations whose launch depends
// on slots and offsets need not wait for the device.
//
// Storages come and go on any thread; contents are only looked at by the stream's thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

namespace spkv {
namespace cuda {

struct Shadow {
  char* start = nullptr;  // on the device
  int64_t bytes = 0;
  std::vector<char> content;  // empty: zeros, nobody wrote yet
  bool known = true;          // else an operation wrote it since
  uint64_t recorded_in = 0;   // the recording in which an operation last wrote it

  // The content, as long as it is known.
  const char* at(const void* device);
  void write(void* device, const void* host, int64_t count);
};

class HostShadows {
 public:
  static constexpr int64_t kMaxBytes = int64_t{1} << 20;

  void add(void* start, int64_t bytes);  // zero-filled; larger storages have no shadow
  void remove(const void* start);
  // That of the storage around an address, or null.
  std::shared_ptr<Shadow> find(const void* device) const;

 private:
  mutable std::mutex mutex_;
  std::map<const char*, std::shared_ptr<Shadow>> shadows_;  // by start
};

}  // namespace cuda
}  // namespace spkv
