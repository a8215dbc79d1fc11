// The memory of one device, and the stream in whose order it is given and taken. From any thread.
//
// Commands let go of their storages once they are enqueued, so memory is freed in stream order: behind the
// work that may still use it. Nothing is ever recorded on this stream (graphs are recorded on one of their
// own), so freeing never becomes part of a graph.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "core/device.h"

namespace spkv {
namespace cuda {

class StreamMemory {
 public:
  // Null with a status.
  static std::shared_ptr<StreamMemory> open(int ordinal, Status* status);
  ~StreamMemory();
  StreamMemory(const StreamMemory&) = delete;

  cudaStream_t stream() const { return stream_; }
  void make_current() const { cudaSetDevice(ordinal_); }

  // At least one byte, with undefined content; 256-byte aligned; null when there is none left.
  void* take(int64_t bytes) { return take(bytes, stream_); }
  void give_back(void* data);
  // Memory with a copy of `from`, complete on return, without waiting for the work of the stream.
  void* upload(const void* from, int64_t bytes, Status* status);
  int64_t free_bytes() const;

  // A graph that is no longer wanted may still be running: it is destroyed when the stream is next waited
  // for.
  void retire(cudaGraphExec_t graph);
  // To be called before and after waiting for the stream.
  std::vector<cudaGraphExec_t> retired();
  static void destroy(const std::vector<cudaGraphExec_t>& graphs);

 private:
  StreamMemory(int ordinal, cudaMemPool_t pool) : ordinal_(ordinal), pool_(pool) {}

  void* take(int64_t bytes, cudaStream_t stream);

  const int ordinal_;
  const cudaMemPool_t pool_;
  cudaStream_t stream_ = nullptr;
  cudaStream_t upload_stream_ = nullptr;
  std::mutex mutex_;
  std::vector<cudaGraphExec_t> retired_;
};

// A tensor's memory; `forget` is told when it goes.
class CudaStorage : public Storage {
 public:
  CudaStorage(std::shared_ptr<StreamMemory> memory, void* start, int64_t size,
              std::function<void(const void*)> forget)
      : memory_(std::move(memory)), forget_(std::move(forget)) {
    data = start;
    bytes = size;
  }
  ~CudaStorage() override {
    forget_(data);
    memory_->give_back(data);
  }

 private:
  std::shared_ptr<StreamMemory> memory_;
  std::function<void(const void*)> forget_;
};

}  // namespace cuda
}  // namespace spkv
