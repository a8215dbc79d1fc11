#include "cuda/stream_memory.h"

#include <utility>

#include "cuda/context.h"

namespace spkv {
namespace cuda {

std::shared_ptr<StreamMemory> StreamMemory::open(int ordinal, Status* status) {
  cudaMemPool_t pool = nullptr;
  *status = check(cudaSetDevice(ordinal), "opening the device");
  if (status->ok()) *status = check(cudaDeviceGetDefaultMemPool(&pool, ordinal), "opening its memory pool");
  if (!status->ok()) return nullptr;
  std::shared_ptr<StreamMemory> memory(new StreamMemory(ordinal, pool));
  // What was freed stays with the pool: steps take and free the same sizes again and again.
  uint64_t threshold = ~uint64_t{0};
  *status = check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold),
                  "setting up the memory pool");
  for (cudaStream_t* stream : {&memory->stream_, &memory->upload_stream_}) {
    if (status->ok())
      *status = check(cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking), "creating a stream");
  }
  return status->ok() ? memory : nullptr;
}

StreamMemory::~StreamMemory() {
  make_current();
  if (stream_) cudaStreamSynchronize(stream_);
  destroy(retired_);
  if (upload_stream_) cudaStreamDestroy(upload_stream_);
  if (stream_) cudaStreamDestroy(stream_);
}

void* StreamMemory::take(int64_t bytes, cudaStream_t stream) {
  make_current();
  const size_t size = bytes > 0 ? static_cast<size_t>(bytes) : 1;
  void* data = nullptr;
  if (cudaMallocAsync(&data, size, stream) == cudaSuccess) return data;
  // The pool may have enough in pieces.
  cudaGetLastError();
  cudaStreamSynchronize(stream_);
  cudaMemPoolTrimTo(pool_, 0);
  if (cudaMallocAsync(&data, size, stream) == cudaSuccess) return data;
  cudaGetLastError();
  return nullptr;
}

void StreamMemory::give_back(void* data) {
  make_current();
  cudaFreeAsync(data, stream_);
}

void* StreamMemory::upload(const void* from, int64_t bytes, Status* status) {
  void* data = take(bytes, upload_stream_);
  if (!data) {
    *status = fail(Code::kOutOfMemory, "Could not allocate %lld bytes on the device",
                   static_cast<long long>(bytes));
    return nullptr;
  }
  cudaError_t error =
      cudaMemcpyAsync(data, from, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, upload_stream_);
  if (error == cudaSuccess) error = cudaStreamSynchronize(upload_stream_);
  *status = check(error, "copying a file to the device");
  if (status->ok()) return data;
  give_back(data);
  return nullptr;
}

int64_t StreamMemory::free_bytes() const {
  make_current();
  size_t free = 0, total = 0;
  uint64_t reserved = 0, used = 0;
  if (cudaMemGetInfo(&free, &total) != cudaSuccess) return 0;
  cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrReservedMemCurrent, &reserved);
  cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrUsedMemCurrent, &used);
  return static_cast<int64_t>(free + (reserved - used));
}

void StreamMemory::retire(cudaGraphExec_t graph) {
  std::lock_guard<std::mutex> lock(mutex_);
  retired_.push_back(graph);
}

std::vector<cudaGraphExec_t> StreamMemory::retired() {
  std::lock_guard<std::mutex> lock(mutex_);
  return std::exchange(retired_, {});
}

void StreamMemory::destroy(const std::vector<cudaGraphExec_t>& graphs) {
  for (cudaGraphExec_t graph : graphs) cudaGraphExecDestroy(graph);
}

}  // namespace cuda
}  // namespace spkv
