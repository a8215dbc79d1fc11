// A block of decode attention: who does what, and what its shared memory holds.
//
//   compute warps   4 times Config::kTeams; warp w of a team takes slots [16w, 16w + 16) of the team's pages,
//                   which are those in every kTeams-th stage: so a stage has one team that waits for it
//   merge warps     4, merge the compute warps' states at the end of an item, and write results
//   page warp       streams pages from the pool into the stages
//   item warp       streams the queries and new pairs of items into the item slots
//
//   pages  -> stages  ->  compute  ->  merge buffer  ->  merge  ->  out, or partials
//   items  -> slots   ->
//
// Each arrow is a pair of barriers, full and empty, so that nobody waits for anybody who is a ring ahead. All
// four walk the same items, from the block's first unit to its last; what a block has of an item is a
// fragment.
#pragma once

#include "cuda/common/page.cuh"
#include "cuda/common/ptx.cuh"
#include "cuda/common/ring.cuh"
#include "cuda/decode_attention.h"
#include "cuda/decode_tile.cuh"

namespace spkv {
namespace cuda {

constexpr int kTeamWarps = 4;
constexpr int kMergeWarps = 4;
constexpr int kMergeThreads = kMergeWarps * 32;
constexpr int kItemSlots = 4;

constexpr int kMergeBarrier = 1;  // among the merge warps

template <typename PageForm, int tiles, int stages, int teams>
struct DecodeConfig {
  using Form = PageForm;
  static constexpr int kDim = Form::kDim, kTiles = tiles, kStages = stages, kTeams = teams;
  static constexpr int kComputeWarps = teams * kTeamWarps, kPageWarp = kComputeWarps + kMergeWarps;
  static constexpr int kItemWarp = kPageWarp + 1, kThreads = (kItemWarp + 1) * 32;
  static_assert(stages % teams == 0, "a stage belongs to one team");
  static constexpr int kQueries = 8 * tiles;
  // Rows of shared memory are padded so that the lanes of a fragment use different banks.
  static constexpr int kQueryStride = kDim + 8, kOutStride = kDim + 4;
  using State = DecodeState<Form, tiles>;
};

template <typename Config>
struct alignas(16) ItemSlot {
  __nv_bfloat16 q[Config::kQueries][Config::kQueryStride];  // of the group; the rows behind it are not set
  uint8_t key[Config::Form::kNewRowBytes];                  // of the new token
  uint8_t value[Config::Form::kNewRowBytes];
  ItemPlan plan;
};

template <typename Config>
struct alignas(16) MergeBuffer {
  float out[Config::kComputeWarps][Config::kQueries][Config::kOutStride];
  float top[Config::kComputeWarps][Config::kQueries];
  float sum[Config::kComputeWarps][Config::kQueries];
};

template <typename Config>
struct alignas(1024) BlockMemory {
  uint8_t stages[Config::kStages][Config::Form::kPageBytes];
  ItemSlot<Config> items[kItemSlots];
  MergeBuffer<Config> merge;
  uint64_t page_full[Config::kStages], page_empty[Config::kStages];
  uint64_t item_full[kItemSlots], item_empty[kItemSlots];
  uint64_t merge_full, merge_empty;
  int last;
};

// Rows and place in the table of the units of an item: see StepPlan.
struct Units {
  int ring_rows, ring_units, kept;

  __device__ __forceinline__ Units(int length, int kept, const CacheState& cache)
      : ring_rows(min(length, cache.ring_slots)),
        ring_units((ring_rows + kPageSlots - 1) / kPageSlots),
        kept(kept) {}

  __device__ __forceinline__ int rows(int unit) const {
    return unit < ring_units ? min(kPageSlots, ring_rows - unit * kPageSlots)
                             : min(kPageSlots, kept - (unit - ring_units) * kPageSlots);
  }
  __device__ __forceinline__ int table_index(int unit, const CacheState& cache) const {
    return unit < ring_units ? unit : cache.ring_pages + unit - ring_units;
  }
};

// Which of the warp's 16 slots of a unit the new token sees.
__device__ __forceinline__ uint32_t visible_slots(const Units& units, const ItemPlan& item, int unit,
                                                  const CacheState& cache) {
  int row = threadIdx.x / 32 % kTeamWarps * kTileSlots + threadIdx.x % 32;
  bool seen = row < units.rows(unit);
  if (unit < units.ring_units) {
    int slot = unit * kPageSlots + row;
    int age = item.length % cache.ring_slots - slot;  // new token's position minus the slot's
    if (age <= 0) age += cache.ring_slots;
    seen = seen && age <= cache.window && slot != item.hidden_slot;
  }
  return __ballot_sync(~0u, seen) & kAllVisible;
}

// Units of the item that the block has.
__device__ __forceinline__ int fragment_begin(const BlockPlan& block, const ItemPlan& item) {
  return max(0, block.begin - item.first_unit);
}
__device__ __forceinline__ int fragment_end(const BlockPlan& block, const ItemPlan& item) {
  return min(item.units, block.end - item.first_unit);
}

__device__ __forceinline__ const ItemPlan* layer_items(const DecodeAttentionParams& p) {
  return p.plan.items + static_cast<int64_t>(p.layer) * p.plan.batch * p.cache.kv_heads;
}

__device__ __forceinline__ ItemPlan read_item(const ItemPlan* from) {
  ItemPlan item;
  reinterpret_cast<int4*>(&item)[0] = reinterpret_cast<const int4*>(from)[0];
  reinterpret_cast<int4*>(&item)[1] = reinterpret_cast<const int4*>(from)[1];
  return item;
}

}  // namespace cuda
}  // namespace spkv
