// What a block of prefill attention on Hopper is made of, and what its shared memory holds. Each arrow is a
// ring of buffers with a pair of barriers, full and empty, so that the left side is a tile ahead of the right
// one where that is busy.
//
//   warp 0           streams pages      ->  keys, values  ->
//   warp 1           finds tiles        ->  tiles         ->    all others
//   warps 2, 3       fetch queries      ->  queries       ->
//   warpgroups       64 rows of a tile each: attention_group.cuh    ->  out
//   1, 2 (, 3)
//
// Lane 0 arrives for its warp, behind __syncwarp. What threads themselves write and read, tiles and the masks
// of keys, each of them arrives for: racecheck takes an arrival for that of its thread alone.
#pragma once

#include "cuda/attention_group.cuh"
#include "cuda/common/ring.cuh"
#include "cuda/prefill_walk.cuh"

namespace spkv {
namespace cuda {

constexpr int kTileSlots = 3, kQuerySlots = 2;
constexpr int kFirstQueryWarp = 2, kQueryWarps = 2;

// Registers are those of a thread; the multiprocessor has 512 for the threads of four warps.
template <int dim, int groups, int stages, int feed_registers, int group_registers>
struct PrefillConfig {
  static constexpr int kDim = dim, kGroups = groups, kStages = stages;
  static constexpr int kRows = groups * kGroupRows, kThreads = (groups + 1) * kGroupThreads;
  static constexpr int kFeedRegisters = feed_registers, kGroupRegisters = group_registers;
  static constexpr int kChunksAtOnce = feed_registers >= 56 ? 4 : 1;  // of queries, in a thread's registers
  using Group = AttentionGroup<dim>;
};

// A tile on its way from the warp that finds it to the others. All of it lies behind one address, since the
// warps that feed have no register for a second.
template <typename C>
struct TileBuffer {
  PrefillItem<C::kDim> item;          // one without pages ends the block
  const float* query_rows[C::kRows];  // where they are; those behind the last repeat it
  uint64_t full, empty;
};

template <typename C>
struct alignas(1024) PrefillMemory {
  uint8_t keys[C::kStages][C::Group::kKeyBytes];
  uint8_t values[C::kStages][C::Group::kKeyBytes];
  uint8_t queries[kQuerySlots][C::kGroups][C::Group::kQueryBytes];
  TileBuffer<C> tiles[kTileSlots];
  PageMask masks[C::kStages][2];  // of pairs 0..63 and 64..127 of the keys
  uint64_t keys_full[C::kStages], keys_empty[C::kStages];
  uint64_t values_full[C::kStages], values_empty[C::kStages];
  uint64_t queries_full[kQuerySlots], queries_empty[kQuerySlots];
};

}  // namespace cuda
}  // namespace spkv
