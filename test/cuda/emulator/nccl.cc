// Stands in for NCCL under the emulator: a library of its own, which native/cuda/nccl_library.cc opens. Ranks, threads
// or processes of one machine, meet in shared memory. As in NCCL with calls that do not block, all of them go on in the
// background, and wait for missing ranks until the communicator is aborted.
//
//   SPKV_EMULATED_NCCL_VERSION=21003   what it says its version is
//   SPKV_EMULATED_NCCL_FAIL=3          the third sum of a communicator fails as with a rank that has gone
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "emulator/runtime.h"

#define SPKV_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

enum Result { kSuccess = 0, kSystemError = 2, kInvalidArgument = 4, kRemoteError = 6, kInProgress = 7 };
constexpr int kFloat32 = 7, kSum = 0, kMostRanks = 16;
constexpr size_t kPiece = 1 << 14;  // elements that are exchanged at a time

struct Id {
  char internal[128];
};

struct Config {
  size_t size;
  unsigned magic, version;
  int blocking;
};

struct Shared {
  std::atomic<uint64_t> arrivals;
  float pieces[kMostRanks][kPiece];
};
static_assert(std::atomic<uint64_t>::is_always_lock_free, "it lies in memory of several processes");

int number(const char* name, int otherwise) {
  const char* text = getenv(name);
  return text && *text ? atoi(text) : otherwise;
}

class Comm {
 public:
  Comm(const Id& id, int rank, int size) : path_(id.internal), rank_(rank), size_(size) {}
  ~Comm() {
    aborted_ = true;
    if (thread_.joinable()) thread_.join();
    if (shared_) munmap(shared_, sizeof(Shared));
    if (rank_ == 0) unlink(path_.c_str());
  }

  Result connect() {
    return start([this] {
      const int file = open(path_.c_str(), O_RDWR | O_CREAT, 0600);
      if (file < 0 || ftruncate(file, sizeof(Shared)) != 0) return kSystemError;
      void* memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
      close(file);
      if (memory == MAP_FAILED) return kSystemError;
      shared_ = static_cast<Shared*>(memory);
      return meet() ? kSuccess : kRemoteError;
    });
  }

  Result all_reduce(const float* from, float* to, size_t count, cudaStream_t stream) {
    if (++sums_ == number("SPKV_EMULATED_NCCL_FAIL", -1)) return kRemoteError;
    return start([=] {
      bool whole = true;
      stream->enqueue([&] { whole = sum(from, to, count); });
      return whole ? kSuccess : kRemoteError;
    });
  }

  Result state() const { return static_cast<Result>(state_.load()); }

 private:
  Result start(std::function<Result()> work) {
    if (state_ == kInProgress) return kInvalidArgument;  // the caller has to wait
    if (thread_.joinable()) thread_.join();
    state_ = kInProgress;
    thread_ = std::thread([this, work = std::move(work)] { state_ = work(); });
    return kInProgress;
  }

  // In the order of the ranks, so that all have the same sum.
  bool sum(const float* from, float* to, size_t count) {
    for (size_t start = 0; start < count; start += kPiece) {
      const size_t piece = count - start < kPiece ? count - start : kPiece;
      memcpy(shared_->pieces[rank_], from + start, piece * sizeof(float));
      if (!meet()) return false;
      for (size_t i = 0; i < piece; i++) {
        float total = shared_->pieces[0][i];
        for (int rank = 1; rank < size_; rank++) total += shared_->pieces[rank][i];
        to[start + i] = total;
      }
      if (!meet()) return false;
    }
    return true;
  }

  // Waits until all ranks have come here; false where that is given up.
  bool meet() {
    const uint64_t all = static_cast<uint64_t>(size_) * ++meetings_;
    shared_->arrivals++;
    while (shared_->arrivals < all) {
      if (aborted_) return false;
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
    return true;
  }

  const std::string path_;
  const int rank_, size_;
  Shared* shared_ = nullptr;
  uint64_t meetings_ = 0;
  int sums_ = 0;
  std::atomic<int> state_{kSuccess};
  std::atomic<bool> aborted_{false};
  std::thread thread_;
};

}  // namespace

SPKV_EXPORT int ncclGetVersion(int* version) {
  *version = number("SPKV_EMULATED_NCCL_VERSION", 22703);
  return kSuccess;
}

SPKV_EXPORT const char* ncclGetErrorString(int result) {
  switch (result) {
    case kSystemError:
      return "unhandled system error";
    case kInvalidArgument:
      return "invalid argument";
    case kRemoteError:
      return "remote process exited or there was a network error";
  }
  return "no error";
}

SPKV_EXPORT const char* ncclGetLastError(void*) { return "emulated"; }

SPKV_EXPORT int ncclGetUniqueId(Id* id) {
  std::random_device random;
  snprintf(id->internal, sizeof(id->internal), "/dev/shm/spkv-nccl-%08x%08x", random(), random());
  return kSuccess;
}

SPKV_EXPORT int ncclCommInitRankConfig(void** comm, int size, Id id, int rank, Config* config) {
  if (size > kMostRanks || rank < 0 || rank >= size || config->magic != 0xcafebeef || config->size < sizeof(Config) ||
      config->blocking != 0)
    return kInvalidArgument;
  auto* made = new Comm(id, rank, size);
  *comm = made;
  return made->connect();
}

SPKV_EXPORT int ncclCommGetAsyncError(void* comm, int* result) {
  *result = static_cast<Comm*>(comm)->state();
  return kSuccess;
}

SPKV_EXPORT int ncclAllReduce(const void* from, void* to, size_t count, int type, int operation, void* comm,
                              cudaStream_t stream) {
  if (type != kFloat32 || operation != kSum) return kInvalidArgument;
  return static_cast<Comm*>(comm)->all_reduce(static_cast<const float*>(from), static_cast<float*>(to), count, stream);
}

SPKV_EXPORT int ncclCommDestroy(void* comm) {
  delete static_cast<Comm*>(comm);
  return kSuccess;
}

SPKV_EXPORT int ncclCommAbort(void* comm) { return ncclCommDestroy(comm); }
