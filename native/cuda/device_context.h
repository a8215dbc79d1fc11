// The context of a device: see context.h.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cuda/context.h"
#include "cuda/device.h"
#include "cuda/fault_sites.h"
#include "cuda/graph.h"
#include "cuda/host_shadow.h"
#include "cuda/matrix_library.h"
#include "cuda/stream_memory.h"

namespace spkv {
namespace cuda {

class DeviceContext : public Context {
 public:
  // Null with a status.
  static std::unique_ptr<DeviceContext> open(const CudaOptions& options, Status* status);
  ~DeviceContext() override;

  // Accelerator.
  Status finish() override;
  Status launch(const Graph& graph, Execution& execution, const std::function<bool()>& check) override;

  // Context.
  cudaStream_t stream() const override { return recording() ? recorder_ : memory_->stream(); }
  int multiprocessors() const override { return multiprocessors_; }
  int compute_capability() const override { return capability_; }
  bool exact() const override { return exact_; }
  bool time_products() const override { return time_products_; }
  MatrixLibrary& matrices() override { return *matrices_; }
  void* scratch(Scratch purpose, int64_t bytes, Status* status) override;
  std::shared_ptr<void> spare(int64_t bytes) override;
  Fault* fault() const override { return faults_.word(); }
  int fault_site(const std::string& key, DescribeFault describe) override {
    return faults_.site(key, std::move(describe));
  }
  const int32_t* host_values(const View& view, Status* status, HostValues* replayed) override;
  void overwritten(const View& view) override;
  bool recording() const override { return recording_ != nullptr; }
  void depend(std::function<bool()> valid) override;
  void on_replay(std::function<void()> effect) override;
  uint64_t recording_number() const override { return recording() ? recordings_ : 0; }

  const std::string& description() const { return description_; }
  const std::shared_ptr<StreamMemory>& memory() const { return memory_; }
  const std::shared_ptr<HostShadows>& shadows() const { return shadows_; }
  Status copy_to_host(void* host, const void* device, int64_t bytes);
  Status copy_from_host(void* device, const void* host, int64_t bytes);

 private:
  struct Block {
    void* aligned = nullptr;
    int64_t bytes = 0;
  };

  DeviceContext() = default;
  Status describe(int ordinal);
  Status run(const Graph& graph, Execution& execution, const std::function<bool()>& check);

  std::shared_ptr<StreamMemory> memory_;
  std::shared_ptr<HostShadows> shadows_ = std::make_shared<HostShadows>();
  std::unique_ptr<MatrixLibrary> matrices_;
  FaultSites faults_;
  std::string description_;
  int multiprocessors_ = 0;
  int capability_ = 0;
  bool exact_ = false;
  bool time_products_ = false;

  Block scratch_[static_cast<int>(Scratch::kCount)];
  std::vector<void*> scratch_memory_;  // all that was ever taken

  cudaStream_t recorder_ = nullptr;  // only ever recorded on
  CompiledGraph* recording_ = nullptr;
  uint64_t recordings_ = 0;
};

}  // namespace cuda
}  // namespace spkv
