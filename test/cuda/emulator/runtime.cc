// Streams, events, graphs and devices of the emulated runtime. Commands run when they are enqueued.
#include "emulator/runtime.h"

#include "emulator/races.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>

struct CUevent_st {
  bool recorded = false;
  std::chrono::steady_clock::time_point at;
};

namespace {

thread_local cudaError_t last_error = cudaSuccess;
thread_local int current_device = 0;
thread_local int captures = 0;  // by this thread that forbid it to wait
std::mutex guard;
std::map<const void*, int> most_shared_bytes;  // of kernels that have asked for more than is usual

constexpr size_t kUsualSharedBytes = 48 * 1024;
constexpr int kMultiprocessors = 4;  // few, because blocks run one after another

bool exists(int device) {
  int count;
  cudaGetDeviceCount(&count);
  return device >= 0 && device < count;
}

}  // namespace

namespace spkv_emulator {

cudaError_t result(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

cudaError_t enqueue(cudaStream_t stream, std::function<void()> command) {
  if (stream) return stream->enqueue(std::move(command));
  command();
  return cudaSuccess;
}

cudaError_t forbid_capture(cudaStream_t stream) {
  bool capturing = stream && stream->capture;
  if (capturing) stream->invalidated = true;
  return capturing || captures > 0 ? result(cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}

int compute_capability() {
  const char* number = getenv("SPKV_EMULATED_CC");
  return number ? atoi(number) : 90;
}

size_t shared_bytes_per_block() {
  int capability = compute_capability();
  return (capability >= 90 ? 227 : capability == 80 ? 163 : 99) * 1024;
}

cudaError_t launch_kernel(const cudaLaunchConfig_t& config, const void* kernel, const char* parameters,
                          std::function<void()> thread) {
  dim3 grid = config.gridDim, block = config.blockDim;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || block.x == 0 || block.y == 0 || block.z == 0 ||
      grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535 || block.x > 1024 || block.y > 1024 ||
      block.z > 64 || size_t{block.x} * block.y * block.z > 1024)
    return result(cudaErrorInvalidConfiguration);
  size_t most = kUsualSharedBytes;
  {
    std::lock_guard<std::mutex> lock(guard);
    auto asked = most_shared_bytes.find(kernel);
    if (asked != most_shared_bytes.end()) most = std::max(most, static_cast<size_t>(asked->second));
  }
  if (config.dynamicSmemBytes > most) return result(cudaErrorInvalidValue);
  for (unsigned i = 0; i < config.numAttrs; i++)
    if (compute_capability() < 90 && config.attrs[i].val.programmaticStreamSerializationAllowed)
      return result(cudaErrorNotSupported);
  bool early = config.numAttrs > 0;
  return enqueue(config.stream, [=, thread = std::move(thread), shared_bytes = config.dynamicSmemBytes] {
    run({grid, block, shared_bytes, parameters, early,
         [](const void* closure) { (*static_cast<const std::function<void()>*>(closure))(); }, &thread});
  });
}

}  // namespace spkv_emulator

cudaError_t CUstream_st::enqueue(std::function<void()> command) {
  if (!capture) {
    command();
  } else if (invalidated) {
    return spkv_emulator::result(cudaErrorStreamCaptureInvalidated);
  } else {
    capture->commands.push_back(std::move(command));
  }
  return cudaSuccess;
}

using spkv_emulator::enqueue;
using spkv_emulator::forbid_capture;
using spkv_emulator::result;

#define SPKV_ERRORS(X)                                                                     \
  X(cudaSuccess, "no error")                                                               \
  X(cudaErrorInvalidValue, "invalid argument")                                             \
  X(cudaErrorMemoryAllocation, "out of memory")                                            \
  X(cudaErrorInvalidConfiguration, "invalid configuration argument")                       \
  X(cudaErrorInvalidDevice, "invalid device ordinal")                                      \
  X(cudaErrorInvalidResourceHandle, "invalid resource handle")                             \
  X(cudaErrorNotSupported, "operation not supported")                                      \
  X(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing") \
  X(cudaErrorStreamCaptureInvalidated, "operation failed due to a previous error during capture")

const char* cudaGetErrorString(cudaError_t error) {
#define X(name, text) \
  if (error == name) return text;
  SPKV_ERRORS(X)
#undef X
  return "unknown error";
}

const char* cudaGetErrorName(cudaError_t error) {
#define X(name, text) \
  if (error == name) return #name;
  SPKV_ERRORS(X)
#undef X
  return "cudaErrorUnknown";
}

cudaError_t cudaGetLastError() {
  cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}

cudaError_t cudaPeekAtLastError() { return last_error; }

// --- The device.

cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

// All devices are alike, and share one memory.
cudaError_t cudaGetDeviceCount(int* count) {
  const char* number = getenv("SPKV_EMULATED_DEVICES");
  *count = number ? atoi(number) : 1;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  if (!exists(device)) return result(cudaErrorInvalidDevice);
  current_device = device;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (!exists(device)) return result(cudaErrorInvalidDevice);
  *properties = {};
  snprintf(properties->name, sizeof(properties->name), "Emulated GPU");
  size_t free_bytes;
  cudaMemGetInfo(&free_bytes, &properties->totalGlobalMem);
  properties->sharedMemPerBlock = kUsualSharedBytes;
  properties->sharedMemPerBlockOptin = spkv_emulator::shared_bytes_per_block();
  properties->sharedMemPerMultiprocessor = properties->sharedMemPerBlockOptin + 1024;
  properties->major = spkv_emulator::compute_capability() / 10;
  properties->minor = spkv_emulator::compute_capability() % 10;
  properties->multiProcessorCount = kMultiprocessors;
  properties->warpSize = 32;
  properties->l2CacheSize = 50 << 20;
  properties->maxThreadsPerBlock = 1024;
  properties->maxThreadsPerMultiProcessor = 2048;
  properties->regsPerBlock = 65536;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp p;
  cudaError_t error = cudaGetDeviceProperties(&p, device);
  if (error) return error;
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = p.maxThreadsPerBlock;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = static_cast<int>(p.sharedMemPerBlock);
      return cudaSuccess;
    case cudaDevAttrWarpSize:
      *value = p.warpSize;
      return cudaSuccess;
    case cudaDevAttrMaxRegistersPerBlock:
      *value = p.regsPerBlock;
      return cudaSuccess;
    case cudaDevAttrClockRate:
      *value = 1000000;
      return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
      *value = p.multiProcessorCount;
      return cudaSuccess;
    case cudaDevAttrL2CacheSize:
      *value = p.l2CacheSize;
      return cudaSuccess;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = p.maxThreadsPerMultiProcessor;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = p.major;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = p.minor;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = static_cast<int>(p.sharedMemPerMultiprocessor);
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(p.sharedMemPerBlockOptin);
      return cudaSuccess;
    case cudaDevAttrMemoryPoolsSupported:
      *value = 1;
      return cudaSuccess;
  }
  return result(cudaErrorInvalidValue);
}

cudaError_t cudaDeviceSynchronize() {
  spkv_emulator::races::order_launches();
  return forbid_capture();
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value < 0 || static_cast<size_t>(value) > spkv_emulator::shared_bytes_per_block())
    return result(cudaErrorInvalidValue);
  std::lock_guard<std::mutex> lock(guard);
  most_shared_bytes[kernel] = value;
  return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int block_threads,
                                                          size_t shared_bytes) {
  size_t each = shared_bytes + 1024;
  *blocks = std::min(
      {2048 / block_threads, 32, static_cast<int>((spkv_emulator::shared_bytes_per_block() + 1024) / each)});
  return cudaSuccess;
}

// --- Streams.

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new CUstream_st;
  return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, 0); }

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  spkv_emulator::races::order_launches();
  return forbid_capture(stream);
}
cudaError_t cudaStreamQuery(cudaStream_t stream) { return forbid_capture(stream); }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  return enqueue(stream, [=] { function(data); });
}

// --- Events.

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return enqueue(stream, [=] {
    *event = {true, std::chrono::steady_clock::now()};
    if (stream) event->at += stream->pretended;
  });
}

cudaError_t cudaEventSynchronize(cudaEvent_t) { return forbid_capture(); }
cudaError_t cudaEventQuery(cudaEvent_t) { return forbid_capture(); }

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  if (!begin->recorded || !end->recorded) return result(cudaErrorInvalidResourceHandle);
  *milliseconds = std::chrono::duration<float, std::milli>(end->at - begin->at).count();
  return cudaSuccess;
}

// --- Graphs.

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  if (!stream || stream->capture) return result(cudaErrorStreamCaptureUnsupported);
  stream->capture = new CUgraph_st;
  stream->invalidated = false;
  stream->mode = mode;
  if (mode != cudaStreamCaptureModeRelaxed) captures++;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  if (!stream || !stream->capture) return result(cudaErrorInvalidValue);
  if (stream->mode != cudaStreamCaptureModeRelaxed) captures--;
  CUgraph_st* captured = stream->capture;
  stream->capture = nullptr;
  if (stream->invalidated) {
    delete captured;
    return result(cudaErrorStreamCaptureInvalidated);
  }
  *graph = captured;
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = !stream || !stream->capture ? cudaStreamCaptureStatusNone
            : stream->invalidated       ? cudaStreamCaptureStatusInvalidated
                                        : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = new CUgraphExec_st{graph->commands};
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  return enqueue(stream, [commands = executable->commands] {
    for (const auto& command : commands) command();
  });
}

cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { return cudaSuccess; }

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
