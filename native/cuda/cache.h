// The cache of the CUDA device: core/cache.h over the arrays of cache_state.h. What the device decides (which
// pages a list has, how many pairs it keeps) is only there; the host knows which sequences live, how long
// they can be at most, and which of them may share pages.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/cache.h"
#include "core/saved_sequence.h"
#include "core/view.h"
#include "cuda/cache_state.h"
#include "cuda/context.h"
#include "cuda/device_memory.h"
#include "cuda/new_pairs.h"
#include "cuda/sequences.h"
#include "cuda/step_plan.h"

namespace spkv {
namespace cuda {

// A step as the host sees it, checked. Valid until the next begin_step.
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
  CudaCache(const CacheGeometry& geometry, Context& context);
  ~CudaCache() override;
  CudaCache(const CudaCache&) = delete;

  // Takes the memory of the pool. On any thread whose current device is that of the context.
  Status reserve();

  const CacheGeometry& geometry() const override { return geometry_; }
  PoolStats pool_stats() const override;
  Status create(float threshold, int32_t* slot) override;
  Status release(int32_t slot) override;
  Status fork(int32_t slot, int32_t* copy) override;
  Status rewind(int32_t slot, int64_t tokens) override;
  Status sequence_stats(int32_t slot, SequenceStats* stats) const override;
  Status forecast(const std::vector<int32_t>& slots, int64_t tokens,
                  std::vector<int32_t>* pages) const override;
  Status save(int32_t slot, std::vector<uint8_t>* bytes) const override;
  Status restore(const uint8_t* bytes, int64_t size, int32_t* slot) override;
  Status poison() override;

  // What every operation on the cache begins with: checks that the slots are live and all different, that the
  // offsets rise from 0 to `tokens`, and that positions stay in 31 bits; makes room in the tables for what an
  // insertion of this step may add. In a recorded graph the content of offsets is a dependency; slots may be
  // others at every replay.
  Status begin_step(Context& context, const View& slots, const View& offsets, int64_t tokens, Step* step);
  // The device's arrays; valid until the next begin_step.
  const CacheState& state() const { return state_; }
  // The plan of a decode step (step.decode, and state().swizzled). Made once for all layers: as long as
  // neither the cache nor the step changes, later calls return the same.
  Status plan(Context& context, const Step& step, StepPlan* plan);
  // The kept pages of all lists of a step, at most; of a recorded step whenever it is replayed.
  int64_t kept_pages(const Context& context, const Step& step) const;
  // To be called by an insertion once it is enqueued.
  void inserted(Context& context, const Step& step);
  const InsertFaults& insert_faults();

 private:
  // Lengths and counts are those of the device once all that is enqueued has run, or more: a step may fail.
  struct Sequence {
    bool live = false;
    float threshold = 0;
    int64_t length = 0;
    int64_t kept = 0;              // of its longest list
    int64_t ahead = 0;             // tokens that a graph inserts before the step that is looked at
    std::shared_ptr<char> family;  // that of its forks; alone in it, a sequence shares no page
    uint64_t seen = 0;             // the step that last named this sequence
  };
  struct PlanKey {
    uint64_t content = 0, recording = 0;
    const int32_t* device_slots = nullptr;  // of a recorded step: what they hold can change
    std::vector<int32_t> slots;
    bool operator==(const PlanKey& o) const {
      return content == o.content && recording == o.recording && device_slots == o.device_slots &&
             slots == o.slots;
    }
  };
  // A step of a recorded graph. Every layer's attention belongs to it, and the insertion ends it.
  struct RecordedStep {
    const int32_t* device_slots = nullptr;
    Context::HostValues slots;
    std::vector<int32_t> offsets;
    bool shared = false;
    bool inserted = false;

    size_t batch() const { return offsets.size() - 1; }
    int64_t tokens(size_t b) const { return int64_t{offsets[b + 1]} - offsets[b]; }
  };
  struct Recording {
    uint64_t number = 0, layout = 0;
    std::vector<RecordedStep> steps;
  };

  // --- cache.cc
  Status check(int32_t slot) const;
  Status check_available(int64_t needed) const;
  Status take_slot(int32_t* slot);
  Status begin_sequence(int32_t slot, float threshold, int64_t length, int64_t oldest, int64_t pages,
                        const ListStart* starts);
  Status read(void* host, const void* device, int64_t bytes) const;
  Status read_lists(std::vector<int32_t>* values, const int32_t* device, int32_t slot, int64_t each) const;
  Status read_ring(int32_t slot, int32_t* length, int32_t* oldest) const;
  Status describe_shortage() const;
  const Sequence& sequence(int32_t slot) const { return sequences_[static_cast<size_t>(slot)]; }
  Sequence& sequence(int32_t slot) { return sequences_[static_cast<size_t>(slot)]; }

  // --- cache_step.cc
  Status read_step(Context& context, const View& slots, const View& offsets);
  Status check_step(int64_t tokens);
  bool may_share(const int32_t* slots, size_t batch) const;
  int64_t kept_at_most(const Sequence& sequence, int64_t tokens) const;
  bool fits(const Sequence& sequence, int64_t tokens) const;
  Status make_room();
  void announce(Context& context, const Step& step);
  bool holds(const Recording& recording);
  bool holds(const RecordedStep& step, const int32_t* slots);
  void advance(const int32_t* slots, const std::vector<int32_t>& offsets);
  Status refresh();

  // --- cache_tables.cc
  int64_t table_pages_for(int64_t kept) const;
  Status grow(int64_t sequences, int64_t table_pages);

  // --- cache_saved.cc
  Status save_rows(int32_t slot, const std::vector<int32_t>& kept, int32_t length, int32_t oldest,
                   const std::vector<SavedList<uint8_t>>& lists) const;
  Status restore_lists(int32_t slot, const SavedSequence& saved);

  CacheGeometry geometry_;
  Context& context_;
  CacheState state_;
  DeviceMemory pool_, books_, tables_;
  StepPlan plan_;
  PlanKey plan_key_;
  uint64_t content_ = 1;  // grows with every change of the cache
  uint64_t layout_ = 1;   // grows when the arrays move
  std::vector<Sequence> sequences_;
  std::vector<int32_t> free_slots_;
  std::vector<int32_t> step_slots_, step_offsets_;
  Context::HostValues replayed_slots_;
  uint64_t step_ = 0;
  std::shared_ptr<Recording> recording_;  // the last one
  InsertFaults faults_;
  uint32_t number_ = 0;
};

int64_t page_bytes(const CacheGeometry& geometry);
std::unique_ptr<Cache> create_cache(const CacheGeometry& geometry, Context& context, Status* status);

}  // namespace cuda
}  // namespace spkv
