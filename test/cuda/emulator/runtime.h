// What the parts of the emulated runtime share.
#pragma once

#include <cuda_runtime_api.h>

#include <chrono>
#include <functional>
#include <vector>

using Commands = std::vector<std::function<void()>>;

struct CUgraph_st {
  Commands commands;
};
struct CUgraphExec_st {
  Commands commands;
};
struct CUstream_st {
  virtual ~CUstream_st() = default;
  // Runs the command, or records it while the stream is captured. Virtual, so that other libraries reach it.
  virtual cudaError_t enqueue(std::function<void()> command);

  CUgraph_st* capture = nullptr;
  bool invalidated = false;  // what is captured cannot be a graph
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  std::chrono::minutes pretended{0};  // which commands say they took: events count them
};

namespace spkv_emulator {

// Keeps the error for cudaGetLastError, and returns it.
cudaError_t result(cudaError_t error);
// The same for a stream that may be the default one.
cudaError_t enqueue(cudaStream_t stream, std::function<void()> command);
// The error of a call that waits or allocates, which a capture forbids; cudaSuccess outside.
cudaError_t forbid_capture(cudaStream_t stream = nullptr);
// Whether [pointer, pointer + bytes) lies in memory of the device, if `device`, or of the host.
bool is_memory_of(bool device, const void* pointer, size_t bytes);

int compute_capability();
size_t shared_bytes_per_block();  // that a kernel can ask for

}  // namespace spkv_emulator
