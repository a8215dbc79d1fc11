// A library as the addon opens it for CUDA, without CUDA: two devices of 1 GiB each that can do nothing but run
// their stream. With SPKV_TEST_COMMUNICATORS they also have communicators, on CUDA's emulator.
#include <cstdlib>
#include <cstring>

#include "cuda/device.h"
#include "ops/operations.h"

#if defined(SPKV_TEST_COMMUNICATORS)
#include "cuda/communicator.h"
#include "cuda/context.h"

// The one function of the library's device_context.cc that communicators need.
spkv::Status spkv::cuda::check(cudaError_t error, const char* doing) {
  return error == cudaSuccess ? Status()
                              : fail(Code::kInternal, "CUDA failed while %s: %s", doing, cudaGetErrorString(error));
}
#endif

namespace {

using namespace spkv;

class Memory : public Storage {
 public:
  explicit Memory(int64_t size) {
    data = calloc(1, static_cast<size_t>(size));
    bytes = size;
  }
  ~Memory() override { free(data); }
};

class HollowDevice : public Device {
 public:
  explicit HollowDevice(int ordinal) : name_("cuda:" + std::to_string(ordinal)) {}

  const char* name() const override { return name_.c_str(); }
  std::string description() const override { return "a hollow GPU"; }
  const Operations& operations() const override { return none_; }
  Stream& stream() override { return stream_; }
  std::shared_ptr<Storage> allocate(int64_t bytes) override { return std::make_shared<Memory>(bytes); }
  std::shared_ptr<Storage> map(const char*, int64_t, int64_t, int64_t, Status* status) override {
    *status = fail(Code::kFile, "hollow");
    return nullptr;
  }
  bool bf16_activations() const override { return true; }
  int64_t free_memory() const override { return int64_t{1} << 30; }
  std::unique_ptr<Cache> create_cache(const CacheGeometry&, Status* status) override {
    *status = fail(Code::kOutOfMemory, "hollow");
    return nullptr;
  }
  int64_t page_bytes(const CacheGeometry& geometry) const override {
    return 2 * kPageTokens * geometry.head_dim * dtype_bytes(geometry.dtype);
  }
  int64_t packed_bytes(DType, int64_t, int64_t) const override { return 0; }
#if defined(SPKV_TEST_COMMUNICATORS)
  Status communicator_id(CommunicatorId* id) override { return cuda::communicator_id(id); }
  std::unique_ptr<Communicator> create_communicator(const CommunicatorOptions& options, Status* status) override {
    auto memory = cuda::StreamMemory::open(0, status);
    return memory ? cuda::create_communicator(options, memory, status) : nullptr;
  }
#else
  Status communicator_id(CommunicatorId*) override { return fail(Code::kDevice, "hollow"); }
  std::unique_ptr<Communicator> create_communicator(const CommunicatorOptions&, Status* status) override {
    *status = fail(Code::kDevice, "hollow");
    return nullptr;
  }
#endif
  Status copy_to_host(void* host, const void* device, int64_t bytes) override {
    memcpy(host, device, static_cast<size_t>(bytes));
    return Status();
  }
  Status copy_from_host(void* device, const void* host, int64_t bytes) override {
    memcpy(device, host, static_cast<size_t>(bytes));
    return Status();
  }

 private:
  std::string name_;
  Operations none_{};
  Stream stream_{Execution{}, [] {}};
};

int device_count(Status*) { return 2; }

Device* open(const CudaOptions& options, Status* status) {
  const int ordinal = options.ordinal;
  if (ordinal < 2) return new HollowDevice(ordinal);
  *status = fail(Code::kDevice, "There is no GPU %d", ordinal);
  return nullptr;
}

}  // namespace

const spkv::CudaLibrary* spkv_cuda_library() {
  static const spkv::CudaLibrary library = {SPKV_CUDA_VERSION, device_count, open};
  return &library;
}
