#include "cpu/device.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstdlib>
#include <cstring>

#include "core/mapped_file.h"
#include "core/thread_pool.h"
#include "cpu/cache.h"
#include "cpu/packed.h"
#include "ops/operations.h"

namespace spkv {
namespace cpu {
namespace portable {
extern const Operations operations;
}
#if defined(__x86_64__)
namespace avx2 {
extern const Operations operations;
}
namespace avx512 {
extern const Operations operations;
}
#endif
}  // namespace cpu

namespace {

struct InstructionSet {
  const char* name;
  const Operations* operations;
  bool available;
};

// Best first.
std::vector<InstructionSet> instruction_sets() {
  std::vector<InstructionSet> sets;
#if defined(__x86_64__)
  __builtin_cpu_init();
  sets.push_back({"avx512", &cpu::avx512::operations,
                  __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")});
  sets.push_back(
      {"avx2", &cpu::avx2::operations, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")});
#endif
  sets.push_back({"portable", &cpu::portable::operations, true});
  return sets;
}

// Large allocations lie on huge pages where the system has them: weights are streamed once per step, and with
// small pages the address translation alone costs a tenth of the bandwidth.
constexpr int64_t kHugePage = int64_t{2} << 20;

class HostStorage : public Storage {
 public:
  explicit HostStorage(int64_t size) {
    bool huge = size >= 2 * kHugePage;
    int64_t alignment = huge ? kHugePage : 64;
    // A whole number of cache lines, so that vector loads at the end stay inside.
    int64_t rounded = (size + alignment - 1) / alignment * alignment;
    if (rounded == 0) rounded = alignment;
    if (posix_memalign(&data, static_cast<size_t>(alignment), static_cast<size_t>(rounded)) != 0)
      data = nullptr;
    if (!data) return;
#if defined(__linux__)
    if (huge) madvise(data, static_cast<size_t>(rounded), MADV_HUGEPAGE);
#endif
    memset(data, 0, static_cast<size_t>(size));
    bytes = size;
  }
  ~HostStorage() override { free(data); }
};

class CpuDevice : public Device {
 public:
  CpuDevice(const InstructionSet& set, int threads, bool pin)
      : set_(set), pool_(threads, pin), stream_(Execution{&pool_, nullptr}, [this] { pool_.attach(); }) {}

  const char* name() const override { return "cpu"; }
  std::string description() const override {
    return std::string(set_.name) + ", " + std::to_string(pool_.threads()) +
           (pool_.threads() == 1 ? " thread" : " threads");
  }
  const Operations& operations() const override { return *set_.operations; }
  Stream& stream() override { return stream_; }
  bool bf16_activations() const override { return false; }

  std::shared_ptr<Storage> allocate(int64_t bytes) override {
    auto storage = std::make_shared<HostStorage>(bytes);
    return storage->data ? storage : nullptr;
  }
  std::shared_ptr<Storage> map(const char* path, int64_t offset, int64_t bytes, int64_t alignment,
                               Status* status) override {
    return map_file(path, offset, bytes, alignment, status);
  }
  int64_t free_memory() const override { return -1; }
  std::unique_ptr<Cache> create_cache(const CacheGeometry& geometry, Status* status) override {
    return cpu::create_cache(geometry, status);
  }
  int64_t page_bytes(const CacheGeometry& geometry) const override { return cpu::page_bytes(geometry); }
  Status communicator_id(CommunicatorId*) override { return no_communicators(); }
  std::unique_ptr<Communicator> create_communicator(const CommunicatorOptions&, Status* status) override {
    *status = no_communicators();
    return nullptr;
  }
  int64_t packed_bytes(DType dtype, int64_t n, int64_t k) const override {
    return cpu::packed_bytes(dtype, n, k);
  }

  Status copy_to_host(void* host, const void* device, int64_t bytes) override {
    memcpy(host, device, static_cast<size_t>(bytes));
    return Status();
  }
  Status copy_from_host(void* device, const void* host, int64_t bytes) override {
    memcpy(device, host, static_cast<size_t>(bytes));
    return Status();
  }

 private:
  static Status no_communicators() {
    return fail(
        Code::kUnsupported,
        "Sums over several processes are made by NCCL, which needs NVIDIA GPUs; this device is the CPU");
  }

  InstructionSet set_;
  ThreadPool pool_;
  Stream stream_;  // last: its thread uses the others
};

}  // namespace

std::shared_ptr<Device> open_cpu_device(const CpuOptions& options, Status* status) {
  int threads = options.threads > 0 ? options.threads : ThreadPool::default_threads();
  bool pin =
      options.pin == Pin::kDefault ? threads == ThreadPool::physical_cores() : options.pin == Pin::kYes;
  for (const InstructionSet& set : instruction_sets()) {
    if (!options.instructions.empty() && options.instructions != set.name) continue;
    if (set.available) return std::make_shared<CpuDevice>(set, threads, pin);
    if (options.instructions.empty()) continue;
    *status = fail(Code::kDevice, "This processor has no %s instructions", set.name);
    return nullptr;
  }
  *status =
      fail(Code::kInvalidArgument, "Expected avx512, avx2 or portable for instructions but received \"%s\"",
           options.instructions.c_str());
  return nullptr;
}

}  // namespace spkv
