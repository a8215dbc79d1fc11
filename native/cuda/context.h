// What operations need of the device they run on. One per device, used from the stream's thread only, except
// where noted.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/status.h"
#include "core/stream.h"
#include "core/view.h"
#include "cuda/common/fault.cuh"

namespace spkv {
namespace cuda {

class MatrixLibrary;  // cuBLASLt, see matrix_library.h

// Device memory that operations use for themselves. Grows on demand; what it was before stays allocated until
// the device closes, because captured graphs hold its address. The content does not outlive an operation.
enum class Scratch {
  kMatrixWorkspace,
  kConverted,
  kAttention,
  kSampling,
  kInsert,
  kPartialSums,
  kUtilities,
  kCount
};

class Context : public Accelerator {
 public:
  virtual cudaStream_t stream() const = 0;
  virtual int multiprocessors() const = 0;
  virtual int compute_capability() const = 0;  // 90 for 9.0
  virtual bool exact() const = 0;              // see CudaOptions
  virtual bool time_products() const = 0;      // see CudaOptions
  // Whether a launch may begin before the one ahead has ended: see LaunchShape::early.
  bool launches_overlap() const { return compute_capability() >= 90; }
  virtual MatrixLibrary& matrices() = 0;

  // At least `bytes`, 1024-byte aligned; null with a status when the memory is exhausted.
  virtual void* scratch(Scratch purpose, int64_t bytes, Status* status) = 0;
  // Memory for what can also be left undone, given back in the stream's order: null where it would be more
  // than half of what is free.
  virtual std::shared_ptr<void> spare(int64_t bytes) = 0;

  // --- Faults, see common/fault.cuh.
  virtual Fault* fault() const = 0;  // device memory
  // The number of a check. `describe` makes the error of it; sites with the same key are one.
  using DescribeFault = std::function<Status(int64_t index, uint32_t value)>;
  virtual int fault_site(const std::string& key, DescribeFault describe) = 0;

  // --- Small i32 tensors whose content decides what is launched: slots and offsets. The host remembers what
  // it wrote, so nothing waits. Null with a status when that is not known and cannot be read now. A recorded
  // graph depends on the content, unless `replayed` is there to ask for what it is at a replay: null when
  // that is not known.
  using HostValues = std::function<const int32_t*()>;
  virtual const int32_t* host_values(const View& view, Status* status, HostValues* replayed = nullptr) = 0;
  // To be called by operations that write i32 tensors: what the host remembers of it is no longer true.
  virtual void overwritten(const View& view) = 0;

  // --- Graphs. The first launch of a graph runs its operations one by one, the second records them, all
  // later ones replay. While `recording`, an operation enqueues its kernels as always, but nothing runs and
  // it must not wait; an operation that cannot do without returns kUnsupported, and its graph always runs one
  // by one.
  //
  // What an operation decides on the host must either hold for ever or be announced: `valid` is asked before
  // every replay, of the state before the graph's first operation; a graph for which it is false runs one by
  // one, and is recorded anew where it is false again at the next launch. What an operation changes on the
  // host, it changes itself when not recording; when recording it leaves everything as it is and only
  // announces the change: `effect` runs once per replay, in order, the first replay being the one that
  // follows the recording. Outside of recordings both do nothing. Neither may refer to the operation's
  // parameters by reference.
  virtual bool recording() const = 0;
  virtual void depend(std::function<bool()> valid) = 0;
  virtual void on_replay(std::function<void()> effect) = 0;
  // Differs between recordings, and is 0 outside: what was computed in one must not be used in another.
  virtual uint64_t recording_number() const = 0;
};

inline Context& context(Execution& execution) { return *static_cast<Context*>(execution.accelerator); }

// kInternal with CUDA's words, kOutOfMemory where it says so; OK for cudaSuccess.
Status check(cudaError_t error, const char* doing);

}  // namespace cuda
}  // namespace spkv
