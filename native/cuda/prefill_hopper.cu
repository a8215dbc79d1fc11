// How the grid maps to the work: a block per multiprocessor, which takes one item (tile of query rows, KV
// head) after another, its first by its number and the others as they come; prefill_walk.cuh says in which
// order. A tile is 128 rows for D = 128, and 192 for D = 64. In a block there are
//
//   warp 0        streams the keys and values of the tiles' pages
//   warps 1..3    find the tiles, and bring their queries to bf16
//   warpgroups    64 rows of the tile each: attention_group.cuh
//   1, 2 (, 3)
//
//   pages    -> keys, values  ->  warpgroups  -> out
//   queries  -> slots         ->
//
// Each arrow is a ring of buffers, so that the first two are a tile ahead of the warpgroups where these are
// busy. The warpgroups take turns: while one issues the products of a step, which keep the matrix units busy
// for as long as its softmax takes, the others compute theirs.
#include "cuda/prefill_hopper.h"

#include <algorithm>

#include "cuda/attention_group.cuh"
#include "cuda/common/launch.cuh"
#include "cuda/common/ring.cuh"
#include "cuda/prefill_walk.cuh"

namespace spkv {
namespace cuda {
namespace {

constexpr int kSlots = 2;
constexpr int kQueryWarps = 3;
constexpr int kFirstTurn = 1;  // the named barrier of the first warpgroup

template <int dim, int groups, int stages, int feed_registers, int group_registers>
struct Config {
  static constexpr int kDim = dim, kGroups = groups, kStages = stages;
  static constexpr int kRows = groups * kGroupRows, kThreads = (groups + 1) * kGroupThreads;
  static constexpr int kFeedRegisters = feed_registers, kGroupRegisters = group_registers;
  using Group = AttentionGroup<dim>;
};

template <typename C>
struct alignas(1024) BlockMemory {
  uint8_t keys[C::kStages][C::Group::kKeyBytes];
  uint8_t values[C::kStages][C::Group::kKeyBytes];
  uint8_t queries[kSlots][C::kGroups][C::Group::kQueryBytes];
  Tile<C::kDim> tiles[kSlots];    // one without pages ends the block
  PageMask masks[C::kStages][2];  // of pairs 0..63 and 64..127 of the keys
  uint64_t keys_full[C::kStages], keys_empty[C::kStages];
  uint64_t values_full[C::kStages], values_empty[C::kStages];
  uint64_t tile_full[kSlots], tile_empty[kSlots], queries_full[kSlots];
};

// Streams the pages of a tile through the stages, two in each. Lane i looks up page i of 32, and copies it.
template <typename C>
class PageFeed {
 public:
  __device__ __forceinline__ explicit PageFeed(BlockMemory<C>* memory) : memory_(memory) {}

  __device__ __forceinline__ void feed(const PrefillStep& step, const Walk<C::kDim>& walk) {
    int lane = threadIdx.x % 32;
    for (int first = 0; first < walk.pages; first += 32) {
      int page = first + lane;
      const uint8_t* from = walk.address(step, page);
      int rows = page < walk.pages ? min(walk.pairs(page), kPageSlots) : 0;
      PageMask mask = {0, PageMask::kBehind, 0};
      if (page < walk.pages) mask = walk.mask_of(step, page);
      int count = min(32, walk.pages - first);
#pragma unroll 1
      for (int i = 0; i < count; i += 2) {
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

  BlockMemory<C>* memory_;
  RingPosition<C::kStages> at_;
};

template <typename C>
__device__ __forceinline__ void feed_pages(const PrefillStep& step, BlockMemory<C>* memory) {
  PageFeed<C> feed(memory);
  RingPosition<kSlots> slot;
  while (true) {
    barrier_wait(shared_address(&memory->tile_full[slot.index]), slot.phase);
    const Walk<C::kDim>& walk = memory->tiles[slot.index].walk;
    if (walk.pages == 0) return;
    feed.feed(step, walk);
    slot.advance();
  }
}

// Finds tiles. What lane 0 does takes thousands of cycles, but is done a tile ahead.
template <typename C>
class TileFinder {
 public:
  __device__ __forceinline__ TileFinder(const PrefillStep& step)
      : items_(step.item_count(C::kRows)), item_(blockIdx.x) {}

  // The block's next tile, or one without pages.
  __device__ __forceinline__ void next(const PrefillStep& step, Tile<C::kDim>* tile) {
    tile->walk.pages = 0;
    while (item_ < items_) {
      bool any = tile->begin(step, item_, items_, C::kRows);
      item_ = static_cast<int>(gridDim.x) + atomicAdd(step.next_item, 1);
      if (any) return;
    }
  }

 private:
  int items_, item_;
};

// Brings the queries of a tile into shared memory. Rows behind the last become 0.
template <typename C>
__device__ __forceinline__ void load_queries(const Rows& q, const TileRows& rows,
                                             uint8_t (*to)[C::Group::kQueryBytes]) {
  constexpr int kRowChunks = C::kDim / kChunkDims;
#pragma unroll 1
  for (int item = threadIdx.x - 32; item < C::kRows * kRowChunks; item += kQueryWarps * 32) {
    int row = item / kRowChunks, c = item % kRowChunks;
    uint4 data = make_uint4(0, 0, 0, 0);
    if (row < rows.count) data = load_chunk(rows.of(q, row) + c * kChunkDims, q.vectors);
    *reinterpret_cast<uint4*>(to[row / kGroupRows] + c / 8 * (kGroupRows * kRowBytes) +
                              swizzled(row % kGroupRows, c % 8)) = data;
  }
}

template <typename C>
__device__ __forceinline__ void feed_tiles(const PrefillStep& step, BlockMemory<C>* memory) {
  TileFinder<C> finder(step);
  RingPosition<kSlots> slot;
  while (true) {
    Tile<C::kDim>& tile = memory->tiles[slot.index];
    uint32_t full = shared_address(&memory->tile_full[slot.index]);
    if (threadIdx.x == 32) {
      barrier_wait(shared_address(&memory->tile_empty[slot.index]), slot.phase ^ 1);
      finder.next(step, &tile);
      barrier_arrive(full);
    }
    __syncwarp();
    barrier_wait(full, slot.phase);
    if (tile.walk.pages == 0) return;
    load_queries<C>(step.q, tile.rows, memory->queries[slot.index]);
    publish_shared();
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(shared_address(&memory->queries_full[slot.index]));
    slot.advance();
  }
}

// The warpgroups' side of the stages, and what they do with a tile.
template <typename C>
class Compute {
 public:
  __device__ __forceinline__ Compute(const PrefillStep& step, BlockMemory<C>* memory)
      : step_(step), memory_(memory), group_(threadIdx.x / kGroupThreads - 1) {}

  __device__ __forceinline__ void run() {
    if (group_ == C::kGroups - 1) end_turn();
    while (true) {
      barrier_wait(shared_address(&memory_->tile_full[slot_.index]), slot_.phase);
      const Tile<C::kDim>& tile = memory_->tiles[slot_.index];
      if (tile.walk.pages == 0) break;
      attend(tile);
      if (threadIdx.x % kGroupThreads == 0) barrier_arrive(shared_address(&memory_->tile_empty[slot_.index]));
      slot_.advance();
    }
    if (group_ == 0) begin_turn();  // nobody is left waiting for it
  }

 private:
  using Group = typename C::Group;

  __device__ __forceinline__ void begin_turn() { named_barrier<2 * kGroupThreads>(kFirstTurn + group_); }
  __device__ __forceinline__ void end_turn() {
    named_barrier_arrive<2 * kGroupThreads>(kFirstTurn + (group_ + 1) % C::kGroups);
  }

  __device__ __forceinline__ uint32_t wait_for_keys() {
    barrier_wait(shared_address(&memory_->keys_full[keys_.index]), keys_.phase);
    return shared_address(memory_->keys[keys_.index]);
  }
  __device__ __forceinline__ uint32_t wait_for_values() {
    barrier_wait(shared_address(&memory_->values_full[values_.index]), values_.phase);
    return shared_address(memory_->values[values_.index]);
  }
  __device__ __forceinline__ void release_keys() {
    if (threadIdx.x % kGroupThreads == 0) barrier_arrive(shared_address(&memory_->keys_empty[keys_.index]));
    keys_.advance();
  }
  __device__ __forceinline__ void release_values() {
    if (threadIdx.x % kGroupThreads == 0)
      barrier_arrive(shared_address(&memory_->values_empty[values_.index]));
    values_.advance();
  }

  // The scores of the newest keys are there.
  __device__ __forceinline__ void take_scores(float (&score)[kGroupPairs / 2], const int (&own)[2],
                                              Group* group) {
    const PageMask(&masks)[2] = memory_->masks[keys_.index];
    if (!masks[0].all() || !masks[1].all()) {
      uint64_t visible[2][2];
#pragma unroll
      for (int page = 0; page < 2; page++) {
        PageMask mask = masks[page];
        visible[0][page] = mask.visible(own[0], step_.cache.window);
        visible[1][page] = mask.visible(own[1], step_.cache.window);
        non_finite_ = non_finite_ || mask.non_finite;
      }
      group->mask(score, visible);
    }
    release_keys();
    group->weigh(score, step_.scale_log2);
  }

  __device__ __forceinline__ void attend(const Tile<C::kDim>& tile) {
    int first_row = group_ * kGroupRows;
    int own[2] = {tile.own(first_row + Group::row_of(0)), tile.own(first_row + Group::row_of(1))};
    uint32_t queries = shared_address(memory_->queries[slot_.index][group_]);
    non_finite_ = false;
    float score[kGroupPairs / 2];
    uint32_t weights[kGroupPairs / 16][4];
    Group group;
    group.begin();
    barrier_wait(shared_address(&memory_->queries_full[slot_.index]), slot_.phase);
    uint32_t keys = wait_for_keys();
    begin_turn();
    group_begin();
    group.multiply_keys(score, queries, keys);
    group_end();
    end_turn();
    group_wait<0>();
    hold(score);
    take_scores(score, own, &group);
    group.pack_weights(score, weights);
    for (int i = 2; i < tile.walk.pages; i += 2) {
      keys = wait_for_keys();
      begin_turn();
      group_begin();
      group.multiply_keys(score, queries, keys);
      group_end();
      uint32_t values = wait_for_values();
      group_begin();
      group.add_values(weights, values);
      group_end();
      end_turn();
      group_wait<1>();
      hold(score);
      take_scores(score, own, &group);
      group_wait<0>();
      hold(group.out);
      release_values();
      group.rescale();
      group.pack_weights(score, weights);
    }
    uint32_t values = wait_for_values();
    group_begin();
    group.add_values(weights, values);
    group_end();
    group_wait<0>();
    hold(group.out);
    release_values();
    group.finish();
    if (non_finite_) {
#pragma unroll
      for (int half = 0; half < 2; half++)
        tile.walk.find_non_finite(step_, own[half],
                                  [&](int i, int j) { group.out[4 * i + 2 * half + j] = NAN; });
    }
    store(tile.rows, first_row, group);
  }

  __device__ __forceinline__ void store(const TileRows& rows, int first_row, const Group& group) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int row = first_row + Group::row_of(half);
      if (row >= rows.count) continue;
      float* to = rows.of(step_.out, row) + threadIdx.x % 4 * 2;
      float share = 1 / group.sum[half];
#pragma unroll
      for (int i = 0; i < C::kDim / 8; i++) {
        float2 pair =
            make_float2(group.out[4 * i + 2 * half] * share, group.out[4 * i + 2 * half + 1] * share);
        if (step_.out.vectors) {
          *reinterpret_cast<float2*>(to + i * 8) = pair;
        } else {
          to[i * 8] = pair.x;
          to[i * 8 + 1] = pair.y;
        }
      }
    }
  }

  const PrefillStep& step_;
  BlockMemory<C>* memory_;
  int group_;
  bool non_finite_;  // whether a page of the tile had values that are not finite
  RingPosition<C::kStages> keys_, values_;
  RingPosition<kSlots> slot_;
};

template <typename C>
__device__ __forceinline__ void begin_block(BlockMemory<C>* memory) {
  auto init = [](uint64_t* barriers, int count, int arrivals) {
    for (int i = 0; i < count; i++) barrier_init(shared_address(barriers + i), arrivals);
  };
  if (threadIdx.x == 0) {
    init(memory->keys_full, C::kStages, 2);
    init(memory->keys_empty, C::kStages, C::kGroups);
    init(memory->values_full, C::kStages, 2);
    init(memory->values_empty, C::kStages, C::kGroups);
    init(memory->tile_full, kSlots, 1);
    init(memory->tile_empty, kSlots, C::kGroups);
    init(memory->queries_full, kSlots, kQueryWarps);
    barrier_init_fence();
  }
  __syncthreads();
}

template <typename C>
__global__ void __launch_bounds__(C::kThreads, 1)
    prefill_hopper_kernel(const __grid_constant__ PrefillStep step) {
  uint8_t* shared = dynamic_shared();
  auto* memory = reinterpret_cast<BlockMemory<C>*>(shared + (1024 - shared_address(shared) % 1024) % 1024);
  begin_block(memory);
  if (threadIdx.x < kGroupThreads) {
    leave_registers<C::kFeedRegisters>();
    if (threadIdx.x < 32) {
      feed_pages(step, memory);
    } else {
      feed_tiles(step, memory);
    }
  } else {
    take_registers<C::kGroupRegisters>();
    Compute<C>(step, memory).run();
  }
}

template <typename C>
cudaError_t launch_prefill(const PrefillStep& step, int multiprocessors, cudaStream_t stream) {
  int items = step.item_count(C::kRows);
  unsigned blocks = static_cast<unsigned>(std::min(items, multiprocessors));
  constexpr int kSharedBytes = static_cast<int>(sizeof(BlockMemory<C>)) + 1024;
  return launch(stream, {dim3(blocks), dim3(C::kThreads), kSharedBytes}, prefill_hopper_kernel<C>, step);
}

}  // namespace

cudaError_t prefill_hopper(const PrefillStep& step, int multiprocessors, cudaStream_t stream) {
  return step.cache.head_dim == 128
             ? launch_prefill<Config<128, 2, 2, 40, 232>>(step, multiprocessors, stream)
             : launch_prefill<Config<64, 3, 4, 32, 160>>(step, multiprocessors, stream);
}

}  // namespace cuda
}  // namespace spkv
