// The warpgroup that feeds a block of prefill attention on Hopper. For D = 64 its threads have 32 registers,
// and use all: one more number to keep would go to local memory, which CI refuses.
#pragma once

#include "cuda/prefill_block.cuh"

namespace spkv {
namespace cuda {

// Streams the pages of a tile through the stages, two in each. Lane i looks up page i of 32, and copies it.
template <typename C>
class PageFeed {
 public:
  __device__ __forceinline__ explicit PageFeed(PrefillMemory<C>* memory) : memory_(memory) {}

  __device__ __forceinline__ void feed(const PrefillStep& step, const Walk<C::kDim>& walk) {
    // The last pages once sent for, the walk is no longer there.
    int lane = threadIdx.x % 32, pages = walk.pages;
    for (int first = 0; first < pages; first += 32) {
      int page = first + lane;
      const uint8_t* from = walk.address(step, page);
      int rows = page < pages ? min(walk.pairs(page), kPageSlots) : 0;
      PageMask mask = {0, PageMask::kBehind, 0};
      if (page < pages) mask = walk.mask_of(step, page);
#pragma unroll 1
      for (int i = 0; i < 32 && first + i < pages; i += 2) {
        bool mine = (lane & ~1) == i;
        barrier_wait(shared_address(&memory_->keys_empty[at_.index]), at_.phase ^ 1);
        if (mine) memory_->masks[at_.index][lane % 2] = mask;
        if (mine) feed_keys(from, rows);
        barrier_wait(shared_address(&memory_->values_empty[at_.index]), at_.phase ^ 1);
        if (__any_sync(~0u, mine && rows < kPageSlots)) {
          clear_values(__shfl_sync(~0u, rows, i), 0);
          clear_values(__shfl_sync(~0u, rows, i + 1), 1);
          publish_shared();
          __syncwarp();
        }
        if (mine) feed_values(from + values_offset(C::kDim), rows);
        at_.advance();
      }
    }
  }

 private:
  static constexpr int kPanels = panels(C::kDim), kPartBytes = values_offset(C::kDim);

  __device__ __forceinline__ void feed_keys(const uint8_t* from, int rows) {
    uint32_t full = shared_address(&memory_->keys_full[at_.index]);
    uint32_t to = shared_address(memory_->keys[at_.index]) + threadIdx.x % 2 * kPanelBytes;
    barrier_arrive_expect(full, rows * kPanels * kRowBytes);
    if (rows == 0) return;
#pragma unroll
    for (int panel = 0; panel < kPanels; panel++)
      bulk_copy(to + panel * C::Group::kKeyPanelBytes, from + panel * kPanelBytes, rows * kRowBytes, full);
  }

  __device__ __forceinline__ void feed_values(const uint8_t* from, int rows) {
    uint32_t full = shared_address(&memory_->values_full[at_.index]);
    uint32_t to = shared_address(memory_->values[at_.index]) + threadIdx.x % 2 * kPartBytes;
    barrier_arrive_expect(full, rows * kPanels * kRowBytes);
    if (rows == kPageSlots) {
      bulk_copy(to, from, kPartBytes, full);
    } else if (rows > 0) {
      for (int panel = 0; panel < kPanels; panel++)
        bulk_copy(to + panel * kPanelBytes, from + panel * kPanelBytes, rows * kRowBytes, full);
    }
  }

  // The rows behind the last of a page become 0: what lies there could be no number, which a weight of 0 does
  // not silence.
  __device__ __forceinline__ void clear_values(int rows, int half) {
    uint8_t* to = memory_->values[at_.index] + half * kPartBytes;
#pragma unroll 1
    for (int panel = 0; panel < kPanels; panel++) {
#pragma unroll 1
      for (int at = rows * kRowBytes + threadIdx.x % 32 * kChunkBytes; at < kPanelBytes;
           at += 32 * kChunkBytes)
        *reinterpret_cast<uint4*>(to + panel * kPanelBytes + at) = make_uint4(0, 0, 0, 0);
    }
  }

  PrefillMemory<C>* memory_;
  RingPosition<C::kStages> at_;
};

template <typename C>
__device__ __forceinline__ void feed_pages(const PrefillStep& step, PrefillMemory<C>* memory) {
  PageFeed<C> feed(memory);
  RingPosition<kTileSlots> slot;
  while (true) {
    TileBuffer<C>& tile = memory->tiles[slot.index];
    barrier_wait(shared_address(&tile.full), slot.phase);
    if (tile.item.walk.pages == 0) return;
    feed.feed(step, tile.item.walk);
    barrier_arrive(shared_address(&tile.empty));
    slot.advance();
  }
}

// Finds the block's tiles, and sends for their queries. Both take thousands of cycles, but are done two tiles
// ahead.
template <typename C>
__device__ __forceinline__ void feed_tiles(const PrefillStep& step, PrefillMemory<C>* memory) {
  constexpr int kLine = 32;  // numbers
  RingPosition<kTileSlots> slot;
  int items = step.item_count(C::kRows), item = blockIdx.x, lane = threadIdx.x % 32;
  while (true) {
    TileBuffer<C>& tile = memory->tiles[slot.index];
    barrier_wait(shared_address(&tile.empty), slot.phase ^ 1);
    if (lane == 0) {
      tile.item.walk.pages = 0;  // the end, if there is no other
      while (item < items) {
        bool any = tile.item.begin(step, item, items, C::kRows);
        item = static_cast<int>(gridDim.x) + atomicAdd(step.next_item, 1);
        if (any) break;
      }
    }
    __syncwarp();
    const TileRows& rows = tile.item.rows;
    bool end = tile.item.walk.pages == 0;
#pragma unroll 1
    for (int row = lane; !end && row < C::kRows; row += 32) {
      const float* q = rows.of(step.q, min(row, rows.count - 1));
      tile.query_rows[row] = q;
      for (int d = 0; d < C::kDim; d += kLine) prefetch_line(q + d);
    }
    barrier_arrive(shared_address(&tile.full));
    if (end) return;
    slot.advance();
  }
}

// Brings the queries of a tile into shared memory.
template <typename C, bool kVectors>
__device__ __forceinline__ void load_queries(const float* const (&rows)[C::kRows],
                                             uint8_t (*to)[C::Group::kQueryBytes]) {
  constexpr int kThreads = kQueryWarps * 32, kRowChunks = C::kDim / kChunkDims;
  constexpr int kPassRows = kThreads / kRowChunks, kAtOnce = kVectors ? C::kChunksAtOnce : 1;
  static_assert(kThreads % kRowChunks == 0 && C::kRows % (kPassRows * kAtOnce) == 0, "passes are whole");
  int thread = threadIdx.x - kFirstQueryWarp * 32, c = thread % kRowChunks;
#pragma unroll 1
  for (int first = thread / kRowChunks; first < C::kRows; first += kAtOnce * kPassRows) {
    uint4 data[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; i++)
      data[i] = load_chunk(rows[first + i * kPassRows] + c * kChunkDims, kVectors);
#pragma unroll
    for (int i = 0; i < kAtOnce; i++) {
      int row = first + i * kPassRows;
      *reinterpret_cast<uint4*>(to[row / kGroupRows] + c / 8 * (kGroupRows * kRowBytes) +
                                swizzled(row % kGroupRows, c % 8)) = data[i];
    }
  }
}

template <typename C>
__device__ __forceinline__ void feed_queries(const PrefillStep& step, PrefillMemory<C>* memory) {
  RingPosition<kTileSlots> slot;
  RingPosition<kQuerySlots> at;
  while (true) {
    TileBuffer<C>& tile = memory->tiles[slot.index];
    barrier_wait(shared_address(&tile.full), slot.phase);
    if (tile.item.walk.pages == 0) return;
    barrier_wait(shared_address(&memory->queries_empty[at.index]), at.phase ^ 1);
    if (step.q.vectors) {
      load_queries<C, true>(tile.query_rows, memory->queries[at.index]);
    } else {
      load_queries<C, false>(tile.query_rows, memory->queries[at.index]);
    }
    barrier_arrive(shared_address(&tile.empty));
    publish_shared();
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(shared_address(&memory->queries_full[at.index]));
    slot.advance();
    at.advance();
  }
}

// The four warps of the feeding warpgroup.
template <typename C>
__device__ __forceinline__ void feed(const PrefillStep& step, PrefillMemory<C>* memory) {
  int warp = threadIdx.x / 32;
  if (warp == 0) feed_pages(step, memory);
  if (warp == 1) feed_tiles(step, memory);
  if (warp >= kFirstQueryWarp) feed_queries(step, memory);
}

}  // namespace cuda
}  // namespace spkv
