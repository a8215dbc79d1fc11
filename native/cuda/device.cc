#include "cuda/device.h"

#include <string>

#include "core/mapped_file.h"
#include "cuda/cache.h"
#include "cuda/communicator.h"
#include "cuda/device_context.h"
#include "cuda/operations.h"

namespace spkv {
namespace {

class CudaDevice : public Device {
 public:
  CudaDevice(int ordinal, std::unique_ptr<cuda::DeviceContext> context)
      : name_("cuda:" + std::to_string(ordinal)),
        context_(std::move(context)),
        stream_(Execution{nullptr, context_.get()}, [this] { context_->memory()->make_current(); }) {}

  const char* name() const override { return name_.c_str(); }
  std::string description() const override { return context_->description(); }
  const Operations& operations() const override { return cuda::operations; }
  Stream& stream() override { return stream_; }
  bool bf16_activations() const override { return true; }

  std::shared_ptr<Storage> allocate(int64_t bytes) override {
    const auto& memory = context_->memory();
    void* data = memory->take(bytes);
    if (!data) return nullptr;
    auto storage = keep(data, bytes);
    // In the stream's order: before all that is enqueued from now on.
    if (bytes > 0 && cudaMemsetAsync(data, 0, static_cast<size_t>(bytes), memory->stream()) != cudaSuccess)
      return nullptr;
    return storage;
  }

  std::shared_ptr<Storage> map(const char* path, int64_t offset, int64_t bytes, int64_t alignment,
                               Status* status) override {
    auto file = map_file(path, offset, bytes, alignment, status);
    if (!file) return nullptr;
    void* data = context_->memory()->upload(file->data, bytes, status);
    if (!data) return nullptr;
    auto storage = keep(data, bytes);
    storage->read_only = true;
    if (auto shadow = context_->shadows()->find(data)) shadow->write(data, file->data, bytes);
    return storage;
  }

  int64_t free_memory() const override { return context_->memory()->free_bytes(); }
  std::unique_ptr<Cache> create_cache(const CacheGeometry& geometry, Status* status) override {
    context_->memory()->make_current();
    return cuda::create_cache(geometry, *context_, status);
  }
  int64_t page_bytes(const CacheGeometry& geometry) const override { return cuda::page_bytes(geometry); }
  Status communicator_id(CommunicatorId* id) override { return cuda::communicator_id(id); }
  std::unique_ptr<Communicator> create_communicator(const CommunicatorOptions& options,
                                                    Status* status) override {
    return cuda::create_communicator(options, context_->memory(), status);
  }
  // Packed weights are rows one after another.
  int64_t packed_bytes(DType dtype, int64_t n, int64_t k) const override {
    return n * k * dtype_bytes(dtype);
  }

  Status copy_to_host(void* host, const void* device, int64_t bytes) override {
    return context_->copy_to_host(host, device, bytes);
  }
  Status copy_from_host(void* device, const void* host, int64_t bytes) override {
    return context_->copy_from_host(device, host, bytes);
  }

 private:
  // A storage may be let go of on any thread, and after the device.
  std::shared_ptr<Storage> keep(void* data, int64_t bytes) {
    auto shadows = context_->shadows();
    shadows->add(data, bytes);
    return std::make_shared<cuda::CudaStorage>(context_->memory(), data, bytes,
                                               [shadows](const void* start) { shadows->remove(start); });
  }

  std::string name_;
  std::unique_ptr<cuda::DeviceContext> context_;
  Stream stream_;  // last: its thread uses the others
};

int device_count(Status* status) {
  int count = 0;
  cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess) return count;
  cudaGetLastError();
  if (error == cudaErrorNoDevice) return 0;
  if (error == cudaErrorInsufficientDriver) {
    *status = fail(Code::kDevice,
                   "The NVIDIA driver is missing, or older than CUDA %d needs: install or update the driver",
                   CUDART_VERSION / 1000);
  } else {
    *status = fail(Code::kDevice, "The NVIDIA driver cannot be used: %s", cudaGetErrorString(error));
  }
  return 0;
}

Device* open_device(const CudaOptions& options, Status* status) {
  const int ordinal = options.ordinal;
  *status = Status();
  int count = device_count(status);
  if (!status->ok()) return nullptr;
  if (count == 0) {
    *status = fail(Code::kDevice, "This machine has no NVIDIA GPU, or CUDA_VISIBLE_DEVICES hides it");
    return nullptr;
  }
  if (ordinal < 0 || ordinal >= count) {
    *status =
        fail(Code::kDevice, "There is no cuda:%d: this machine has cuda:0 to cuda:%d", ordinal, count - 1);
    return nullptr;
  }
  auto context = cuda::DeviceContext::open(options, status);
  return context ? new CudaDevice(ordinal, std::move(context)) : nullptr;
}

}  // namespace
}  // namespace spkv

extern "C" __attribute__((visibility("default"))) const spkv::CudaLibrary* spkv_cuda_library() {
  static const spkv::CudaLibrary library = {SPKV_CUDA_VERSION, spkv::device_count, spkv::open_device};
  return &library;
}
