// A device: its memory, its operations and the stream on which they run.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "core/cache.h"
#include "core/communicator.h"
#include "core/status.h"
#include "core/stream.h"
#include "core/view.h"

namespace spkv {

struct Operations;

// Device memory with shared ownership: every enqueued operation holds what it touches, so a handle may be
// freed while work is in flight.
class Storage {
 public:
  virtual ~Storage() = default;
  void* data = nullptr;
  int64_t bytes = 0;
  bool read_only = false;  // a mapped file: writing would end the process
};

class Device {
 public:
  virtual ~Device() = default;

  virtual const char* name() const = 0;         // "cpu", "cuda:0"
  virtual std::string description() const = 0;  // for people: instruction set, threads
  virtual const Operations& operations() const = 0;
  virtual Stream& stream() = 0;
  // Whether activations and their gradients may be bf16.
  virtual bool bf16_activations() const = 0;

  // Zero-filled memory; null when there is none left.
  virtual std::shared_ptr<Storage> allocate(int64_t bytes) = 0;
  // Read-only memory with bytes of a file, which must be a multiple of `alignment` into it.
  virtual std::shared_ptr<Storage> map(const char* path, int64_t offset, int64_t bytes, int64_t alignment,
                                       Status* status) = 0;
  // Bytes that are free, or -1 where memory is only taken as it is filled.
  virtual int64_t free_memory() const = 0;
  virtual std::unique_ptr<Cache> create_cache(const CacheGeometry& geometry, Status* status) = 0;
  virtual int64_t page_bytes(const CacheGeometry& geometry) const = 0;
  // Both fail with a status where devices of this kind have no communicators, or lack the library for them.
  virtual Status communicator_id(CommunicatorId* id) = 0;
  virtual std::unique_ptr<Communicator> create_communicator(const CommunicatorOptions& options,
                                                            Status* status) = 0;
  // Bytes of an [n, k] weight of `dtype` in the packed layout.
  virtual int64_t packed_bytes(DType dtype, int64_t n, int64_t k) const = 0;

  // Both run on the stream's thread.
  virtual Status copy_to_host(void* host, const void* device, int64_t bytes) = 0;
  virtual Status copy_from_host(void* device, const void* host, int64_t bytes) = 0;
};

}  // namespace spkv
