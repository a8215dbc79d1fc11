// Both ends of common/fault.cuh: the word on the device, and what the numbers of the sites mean.
#pragma once

#include <cuda_runtime_api.h>

#include <string>
#include <unordered_map>
#include <vector>

#include "cuda/context.h"

namespace spkv {
namespace cuda {

class FaultSites {
 public:
  ~FaultSites();
  Status open(cudaStream_t stream);

  Fault* word() const { return device_; }
  int site(const std::string& key, Context::DescribeFault describe);

  // Enqueues reading the word; once the stream has been waited for, `found` is its error, and clears it.
  Status read(cudaStream_t stream);
  Status found(cudaStream_t stream);

 private:
  Fault* device_ = nullptr;
  Fault* host_ = nullptr;  // pinned
  std::unordered_map<std::string, int> numbers_;
  std::vector<Context::DescribeFault> descriptions_;
};

}  // namespace cuda
}  // namespace spkv
