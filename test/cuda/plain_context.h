// The least of a Context that kernels can be run with: a stream and scratch memory.
#pragma once

#include <algorithm>
#include <climits>

#include "cuda/context.h"
#include "support.cuh"

namespace spkv_test {

class PlainContext : public Context {
 public:
  // With `poison`, scratch memory is full of NaN whenever it is asked for: its content does not outlive an
  // operation. With `most_capability`, the GPU counts as one of at most that compute capability.
  explicit PlainContext(bool poison, int most_capability = INT_MAX)
      : poison_(poison), most_capability_(most_capability) {}

  spkv::Status finish() override { return check(cudaStreamSynchronize(nullptr), "finish"); }
  spkv::Status launch(const spkv::Graph&, spkv::Execution&, const std::function<bool()>&) override {
    return spkv::Status();
  }

  cudaStream_t stream() const override { return nullptr; }
  int multiprocessors() const override { return attribute(cudaDevAttrMultiProcessorCount); }
  int compute_capability() const override {
    int own = attribute(cudaDevAttrComputeCapabilityMajor) * 10 + attribute(cudaDevAttrComputeCapabilityMinor);
    return std::min(own, most_capability_);
  }
  bool exact() const override { return false; }
  bool time_products() const override { return false; }
  MatrixLibrary& matrices() override { abort(); }
  void* scratch(Scratch, int64_t bytes, spkv::Status*) override {
    if (memory_.size() < static_cast<size_t>(bytes)) memory_ = DeviceArray<uint8_t>(static_cast<size_t>(bytes));
    if (poison_) memory_.fill(0xff);
    return memory_.get();
  }
  std::shared_ptr<void> spare(int64_t) override { return nullptr; }
  Fault* fault() const override { return nullptr; }
  int fault_site(const std::string&, DescribeFault) override { return 0; }
  const int32_t* host_values(const spkv::View&, spkv::Status*, HostValues*) override { return nullptr; }
  void overwritten(const spkv::View&) override {}
  bool recording() const override { return false; }
  void depend(std::function<bool()>) override {}
  void on_replay(std::function<void()>) override {}
  uint64_t recording_number() const override { return 0; }

 private:
  static int attribute(cudaDeviceAttr name) {
    int value = 0;
    CHECK_CUDA(cudaDeviceGetAttribute(&value, name, 0));
    return value;
  }
  bool poison_;
  int most_capability_;
  DeviceArray<uint8_t> memory_;
};

}  // namespace spkv_test
