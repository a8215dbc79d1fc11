#include "cuda/host_shadow.h"

#include <cstring>

namespace spkv {
namespace cuda {

const char* Shadow::at(const void* device) {
  content.resize(static_cast<size_t>(bytes));
  return content.data() + (static_cast<const char*>(device) - start);
}

void Shadow::write(void* device, const void* host, int64_t count) {
  content.resize(static_cast<size_t>(bytes));
  memcpy(content.data() + (static_cast<char*>(device) - start), host, static_cast<size_t>(count));
  if (count == bytes) known = true;
}

void HostShadows::add(void* start, int64_t bytes) {
  if (bytes > kMaxBytes) return;
  auto shadow = std::make_shared<Shadow>();
  shadow->start = static_cast<char*>(start);
  shadow->bytes = bytes;
  std::lock_guard<std::mutex> lock(mutex_);
  shadows_[shadow->start] = std::move(shadow);
}

void HostShadows::remove(const void* start) {
  std::lock_guard<std::mutex> lock(mutex_);
  shadows_.erase(static_cast<const char*>(start));
}

std::shared_ptr<Shadow> HostShadows::find(const void* device) const {
  const char* address = static_cast<const char*>(device);
  std::lock_guard<std::mutex> lock(mutex_);
  auto next = shadows_.upper_bound(address);
  if (next == shadows_.begin()) return nullptr;
  const std::shared_ptr<Shadow>& shadow = (--next)->second;
  return address < shadow->start + shadow->bytes ? shadow : nullptr;
}

}  // namespace cuda
}  // namespace spkv
