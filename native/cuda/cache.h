// The cache of the CUDA device: core/cache.h over the arrays of cache_state.h. What the device decides (which
// pages a list has, how many pairs it keeps) is only there; the host knows which sequences live, how long
// they can be at most, and which of them may share pages.
#pragma once

#include <memory>
#include <vector>

#include "core/cache.h"
#include "core/view.h"
#include "cuda/cache_state.h"
#include "cuda/context.h"
#include "cuda/step_plan.h"

namespace spkv {
namespace cuda {

// A step as the host sees it, checked.
struct Step {
  int batch = 0;
  int64_t tokens = 0;
  const int32_t* slots = nullptr;         // [B], on the host
  const int32_t* offsets = nullptr;       // [B + 1], on the host
  const int32_t* device_slots = nullptr;  // the same on the device
  const int32_t* device_offsets = nullptr;
  int64_t longest = 0;  // new tokens of the sequence with the most
  bool decode = false;  // every sequence has exactly one new token
  bool shared = false;  // a sequence of the step may share pages with another
};

class CudaCache : public Cache {
 public:
  // What every operation on the cache begins with: checks that the slots are live and all different, that the
  // offsets rise from 0 to `tokens`, and that positions stay in 31 bits; makes room in the tables for what an
  // insertion of this step may add. In a recorded graph the content of slots and offsets is a dependency.
  virtual Status begin_step(Context& context, const View& slots, const View& offsets, int64_t tokens,
                            Step* step) = 0;
  // The device's arrays; valid until the next begin_step.
  virtual const CacheState& state() const = 0;
  // The plan of a decode step (step.decode, and state().swizzled). Made once for all layers: as long as
  // neither the cache nor the step changes, later calls return the same.
  virtual Status plan(Context& context, const Step& step, StepPlan* plan) = 0;
};

Status check_geometry(const CacheGeometry& geometry);
CacheState empty_state(const CacheGeometry& geometry);  // sizes only
std::unique_ptr<Cache> create_cache(const CacheGeometry& geometry, Context& context, Status* status);

}  // namespace cuda
}  // namespace spkv
