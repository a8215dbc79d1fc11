#include "cuda/fault_sites.h"

#include <utility>

namespace spkv {
namespace cuda {
namespace {

// A site has 8 bits, and all ones mean that there is no fault. The last number is shared by all sites for
// which there is no other.
constexpr size_t kLastSite = 254;

}  // namespace

FaultSites::~FaultSites() {
  cudaFree(device_);
  cudaFreeHost(host_);
}

Status FaultSites::open(cudaStream_t stream) {
  SPKV_RETURN_IF_ERROR(
      check(cudaMalloc(reinterpret_cast<void**>(&device_), sizeof(Fault)), "allocating the fault word"));
  SPKV_RETURN_IF_ERROR(check(cudaMallocHost(reinterpret_cast<void**>(&host_), sizeof(Fault)),
                             "allocating pinned host memory"));
  *host_ = kNoFault;
  return check(cudaMemsetAsync(device_, 0xff, sizeof(Fault), stream), "clearing the fault word");
}

int FaultSites::site(const std::string& key, Context::DescribeFault describe) {
  auto known = numbers_.find(key);
  if (known != numbers_.end()) return known->second;
  if (descriptions_.size() == kLastSite) {
    descriptions_.push_back([](int64_t index, uint32_t value) {
      return fail(Code::kInvalidArgument, "An operation found bad data at index %lld: bits 0x%08x",
                  static_cast<long long>(index), value);
    });
  }
  if (descriptions_.size() > kLastSite) return static_cast<int>(kLastSite);
  descriptions_.push_back(std::move(describe));
  return numbers_[key] = static_cast<int>(descriptions_.size() - 1);
}

Status FaultSites::read(cudaStream_t stream) {
  return check(cudaMemcpyAsync(host_, device_, sizeof(Fault), cudaMemcpyDeviceToHost, stream),
               "reading the fault word");
}

Status FaultSites::found(cudaStream_t stream) {
  const Fault fault = *host_;
  if (fault == kNoFault) return Status();
  SPKV_RETURN_IF_ERROR(
      check(cudaMemsetAsync(device_, 0xff, sizeof(Fault), stream), "clearing the fault word"));
  const size_t site = static_cast<size_t>(fault >> 56);
  if (site >= descriptions_.size())
    return fail(Code::kInternal, "A kernel reported a fault at an unknown site (%zu)", site);
  return descriptions_[site](static_cast<int64_t>(fault >> 32 & 0xffffff), static_cast<uint32_t>(fault));
}

}  // namespace cuda
}  // namespace spkv
