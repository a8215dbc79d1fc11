// Memory of the emulated device: allocations of the host that begin as NaN, so that what nobody wrote shows.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "emulator/races.h"
#include "emulator/runtime.h"

namespace {

using spkv_emulator::enqueue;
using spkv_emulator::forbid_capture;
using spkv_emulator::is_memory_of;
using spkv_emulator::result;

namespace races = spkv_emulator::races;

// Races are looked for by pages.
size_t alignment() { return races::on() ? races::kPageBytes : 256; }

std::mutex guard;
std::map<const char*, size_t> allocations;
size_t allocated = 0;

// SPKV_EMULATED_MEMORY, in bytes, is what the device has.
size_t total_bytes() {
  const char* bytes = getenv("SPKV_EMULATED_MEMORY");
  return bytes ? strtoull(bytes, nullptr, 10) : size_t{4} << 30;
}

size_t padded(size_t bytes) { return (bytes + alignment() - 1) / alignment() * alignment(); }

cudaError_t allocate(void** pointer, size_t bytes) {
  *pointer = nullptr;
  if (bytes == 0) return cudaSuccess;
  std::lock_guard<std::mutex> lock(guard);
  if (bytes > total_bytes() || allocated + bytes > total_bytes() ||
      posix_memalign(pointer, alignment(), padded(bytes)) != 0)
    return result(cudaErrorMemoryAllocation);
  memset(*pointer, 0xff, bytes);
  allocations[static_cast<char*>(*pointer)] = bytes;
  allocated += bytes;
  races::begin_memory(*pointer, bytes);
  return cudaSuccess;
}

cudaError_t release(void* pointer) {
  if (!pointer) return cudaSuccess;
  std::lock_guard<std::mutex> lock(guard);
  auto at = allocations.find(static_cast<char*>(pointer));
  if (at == allocations.end()) return result(cudaErrorInvalidValue);
  allocated -= at->second;
  races::end_memory(pointer, at->second);
  allocations.erase(at);
  free(pointer);
  return cudaSuccess;
}

bool is_capturing(cudaStream_t stream) { return stream && stream->capture; }

bool fits(cudaMemcpyKind kind, const void* to, size_t to_bytes, const void* from, size_t from_bytes) {
  if (kind == cudaMemcpyDefault) return true;
  return is_memory_of(kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice, to, to_bytes) &&
         is_memory_of(kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice, from, from_bytes);
}

}  // namespace

namespace spkv_emulator {

bool is_memory_of(bool device, const void* pointer, size_t bytes) {
  std::lock_guard<std::mutex> lock(guard);
  const char* begin = static_cast<const char*>(pointer);
  auto behind = allocations.upper_bound(begin);
  if (behind == allocations.begin()) return !device;
  auto [start, size] = *--behind;
  if (begin >= start + size) return !device;
  return device && begin + bytes <= start + size;
}

}  // namespace spkv_emulator

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  std::lock_guard<std::mutex> lock(guard);
  *total = total_bytes();
  *free = *total - allocated;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  cudaError_t error = forbid_capture();
  return error ? error : allocate(pointer, bytes);
}

cudaError_t cudaFree(void* pointer) {
  cudaError_t error = pointer ? forbid_capture() : cudaSuccess;
  return error ? error : release(pointer);
}

cudaError_t cudaMallocAsync(void** pointer, size_t bytes, cudaStream_t stream) {
  return is_capturing(stream) ? result(cudaErrorStreamCaptureUnsupported) : allocate(pointer, bytes);
}

cudaError_t cudaFreeAsync(void* pointer, cudaStream_t stream) {
  if (is_capturing(stream)) return result(cudaErrorStreamCaptureUnsupported);
  return release(pointer);
}

// The pool has nothing in store: what is free is free.
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) {
  *pool = nullptr;
  return cudaSuccess;
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }

cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t, cudaMemPoolAttr attribute, void* value) {
  if (attribute == cudaMemPoolAttrReleaseThreshold) return result(cudaErrorNotSupported);
  std::lock_guard<std::mutex> lock(guard);
  *static_cast<uint64_t*>(value) = allocated;
  return cudaSuccess;
}

cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) { return cudaSuccess; }

cudaError_t cudaMallocHost(void** pointer, size_t bytes) {
  cudaError_t error = forbid_capture();
  if (error) return error;
  *pointer = malloc(bytes);
  return *pointer || bytes == 0 ? cudaSuccess : result(cudaErrorMemoryAllocation);
}

cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) { return cudaMallocHost(pointer, bytes); }

cudaError_t cudaFreeHost(void* pointer) {
  free(pointer);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  if (!fits(kind, to, bytes, from, bytes)) return result(cudaErrorInvalidValue);
  return enqueue(stream, [=] {
    races::order_launches();
    memmove(to, from, bytes);
  });
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  cudaError_t error = forbid_capture();
  return error ? error : cudaMemcpyAsync(to, from, bytes, kind, nullptr);
}

cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
  if (width > to_pitch || width > from_pitch) return result(cudaErrorInvalidValue);
  if (width == 0 || height == 0) return cudaSuccess;
  if (!fits(kind, to, (height - 1) * to_pitch + width, from, (height - 1) * from_pitch + width))
    return result(cudaErrorInvalidValue);
  return enqueue(stream, [=] {
    races::order_launches();
    for (size_t i = 0; i < height; i++)
      memmove(static_cast<char*>(to) + i * to_pitch, static_cast<const char*>(from) + i * from_pitch, width);
  });
}

cudaError_t cudaMemcpy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                         size_t height, cudaMemcpyKind kind) {
  cudaError_t error = forbid_capture();
  return error ? error : cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, width, height, kind, nullptr);
}

cudaError_t cudaMemset2DAsync(void* to, size_t pitch, int byte, size_t width, size_t height,
                              cudaStream_t stream) {
  if (width > pitch) return result(cudaErrorInvalidValue);
  if (width == 0 || height == 0) return cudaSuccess;
  if (!is_memory_of(true, to, (height - 1) * pitch + width)) return result(cudaErrorInvalidValue);
  return enqueue(stream, [=] {
    races::order_launches();
    for (size_t i = 0; i < height; i++) memset(static_cast<char*>(to) + i * pitch, byte, width);
  });
}

cudaError_t cudaMemsetAsync(void* to, int byte, size_t bytes, cudaStream_t stream) {
  return cudaMemset2DAsync(to, bytes, byte, bytes, 1, stream);
}

cudaError_t cudaMemset(void* to, int byte, size_t bytes) {
  cudaError_t error = forbid_capture();
  return error ? error : cudaMemsetAsync(to, byte, bytes, nullptr);
}
