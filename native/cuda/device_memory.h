// Device memory with one owner.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <utility>

#include "core/status.h"

namespace spkv {
namespace cuda {

class DeviceMemory {
 public:
  DeviceMemory() = default;
  ~DeviceMemory() { cudaFree(data_); }
  DeviceMemory(DeviceMemory&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
  DeviceMemory& operator=(DeviceMemory&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }

  // Once only; kOutOfMemory names the bytes and what they are for.
  Status allocate(int64_t bytes, const char* purpose) {
    if (cudaMalloc(&data_, static_cast<size_t>(bytes)) == cudaSuccess) return Status();
    cudaGetLastError();  // the error has been answered
    data_ = nullptr;
    return fail(Code::kOutOfMemory, "The device has no %lld bytes left for %s", static_cast<long long>(bytes),
                purpose);
  }
  uint8_t* data() const { return static_cast<uint8_t*>(data_); }

 private:
  void* data_ = nullptr;
};

}  // namespace cuda
}  // namespace spkv
