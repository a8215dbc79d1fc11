// The arrays that have a place for every sequence: one allocation, which is replaced by a larger one when a
// sequence or a list needs more room.
#include <algorithm>

#include "cuda/cache.h"

namespace spkv {
namespace cuda {
namespace {

// Hands out parts of an allocation; without one it measures.
class Carver {
 public:
  explicit Carver(uint8_t* memory) : memory_(memory) {}
  template <typename T>
  void carve(T** part, int64_t count) {
    *part = reinterpret_cast<T*>(memory_ + bytes_);
    bytes_ += (count * static_cast<int64_t>(sizeof(T)) + 255) / 256 * 256;
  }
  int64_t bytes() const { return bytes_; }

 private:
  uint8_t* memory_;
  int64_t bytes_ = 0;
};

int64_t carve_tables(uint8_t* memory, int blocks, CacheState* state, StepPlan* plan) {
  Carver carver(memory);
  int64_t sequences = state->sequences, lists = sequences * state->layers * state->kv_heads;
  carver.carve(&state->table, lists * state->table_pages);
  carver.carve(&state->kept, lists);
  carver.carve(&state->keep, lists * state->keep_words);
  carver.carve(&state->length, sequences);
  carver.carve(&state->oldest, sequences);
  carver.carve(&state->threshold, sequences);
  // A step has a sequence at most once.
  plan->blocks = blocks;
  carver.carve(&plan->items, lists);
  carver.carve(&plan->block_plans, int64_t{state->layers} * blocks);
  carver.carve(&plan->needs, state->layers);
  carver.carve(&plan->free_top, 1);
  return carver.bytes();
}

}  // namespace

// Of a list with `kept` pairs. None has more pages than there are.
int64_t CudaCache::table_pages_for(int64_t kept) const {
  return geometry_.ring_pages() + std::min((kept + kPageTokens - 1) / kPageTokens, geometry_.capacity_pages);
}

// Waits for the device: the old arrays are free when it returns. Recorded graphs that know them are void.
Status CudaCache::grow(int64_t sequences, int64_t table_pages) {
  constexpr int64_t kFirstKept = 8 * kPageTokens;
  CacheState larger = state_;
  StepPlan plan;
  larger.sequences = static_cast<int32_t>(sequences);
  larger.table_pages = static_cast<int32_t>(std::max(table_pages, table_pages_for(kFirstKept)));
  int blocks = context_.multiprocessors();
  DeviceMemory memory;
  int64_t bytes = carve_tables(nullptr, blocks, &larger, &plan);
  SPKV_RETURN_IF_ERROR(memory.allocate(bytes, "the tables of the cache"));
  carve_tables(memory.data(), blocks, &larger, &plan);
  cudaError_t error = state_.sequences == 0 ? reset_cache(larger, context_.stream())
                                            : move_tables(state_, larger, context_.stream());
  if (error == cudaSuccess) error = cudaStreamSynchronize(context_.stream());
  SPKV_RETURN_IF_ERROR(cuda::check(error, "enlarging the tables of the cache"));
  state_ = larger;
  plan_ = plan;
  plan_key_ = PlanKey();
  tables_ = std::move(memory);  // and with `memory` go the old ones
  layout_++;
  return Status();
}

}  // namespace cuda
}  // namespace spkv
