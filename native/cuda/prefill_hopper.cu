// How the grid maps to the work: a block per multiprocessor, which takes one item (tile of query rows, KV
// head) after another, its first by its number and the others as they come; prefill_walk.cuh says in which
// order. A tile is 128 rows for D = 128 and 192 for D = 64, 64 rows to a warpgroup; prefill_block.cuh says
// who does what.
//
// A warpgroup adds the values of a step while it weighs the scores of the next, and the others' products run
// beside its softmax. Making them take turns was measured, and gains nothing.
#include "cuda/prefill_hopper.h"

#include <algorithm>

#include "cuda/common/launch.cuh"
#include "cuda/prefill_feed.cuh"

namespace spkv {
namespace cuda {
namespace {

// The warpgroups' side of the stages, and what they do with a tile.
template <typename C>
class Compute {
 public:
  __device__ __forceinline__ Compute(const PrefillStep& step, PrefillMemory<C>* memory)
      : step_(step), memory_(memory), group_(threadIdx.x / kGroupThreads - 1) {}

  __device__ __forceinline__ void run() {
    while (true) {
      TileBuffer<C>& tile = memory_->tiles[slot_.index];
      barrier_wait(shared_address(&tile.full), slot_.phase);
      if (tile.item.walk.pages == 0) return;
      attend(tile.item);
      barrier_arrive(shared_address(&tile.empty));
      slot_.advance();
    }
  }

 private:
  using Group = typename C::Group;

  // All that the warp has read there it has used.
  __device__ __forceinline__ void release(uint64_t* empty) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(shared_address(empty));
  }
  __device__ __forceinline__ uint32_t wait_for_keys() {
    barrier_wait(shared_address(&memory_->keys_full[keys_.index]), keys_.phase);
    return shared_address(memory_->keys[keys_.index]);
  }
  __device__ __forceinline__ uint32_t wait_for_values() {
    barrier_wait(shared_address(&memory_->values_full[values_.index]), values_.phase);
    return shared_address(memory_->values[values_.index]);
  }
  __device__ __forceinline__ void release_values() {
    release(&memory_->values_empty[values_.index]);
    values_.advance();
  }

  // The scores of the newest keys are there, those of pages i and i + 1.
  __device__ __forceinline__ void take_scores(float (&score)[kGroupPairs / 2], const Walk<C::kDim>& walk,
                                              int i, const int (&own)[2], Group* group) {
    uint64_t& empty = memory_->keys_empty[keys_.index];
    if (walk.all_seen(i)) {
      __syncwarp();
      if (threadIdx.x % 32 == 0) barrier_arrive_for(shared_address(&empty), 32);
    } else {
      const PageMask(&masks)[2] = memory_->masks[keys_.index];
      uint64_t visible[2][2];
#pragma unroll
      for (int page = 0; page < 2; page++) {
        PageMask mask = masks[page];
        visible[0][page] = mask.visible(own[0], step_.cache.window);
        visible[1][page] = mask.visible(own[1], step_.cache.window);
        non_finite_ = non_finite_ || mask.non_finite;
      }
      barrier_arrive(shared_address(&empty));
      group->mask(score, visible);
    }
    keys_.advance();
    group->weigh(score, step_.scale_log2);
  }

  __device__ __forceinline__ void attend(const PrefillItem<C::kDim>& tile) {
    int first_row = group_ * kGroupRows;
    int own[2] = {tile.own(first_row + Group::row_of(0)), tile.own(first_row + Group::row_of(1))};
    uint32_t queries = shared_address(memory_->queries[queries_.index][group_]);
    non_finite_ = false;
    float score[kGroupPairs / 2];
    uint32_t weights[kGroupPairs / 16][4];
    Group group;
    group.begin();
    barrier_wait(shared_address(&memory_->queries_full[queries_.index]), queries_.phase);
    uint32_t keys = wait_for_keys();
    group_begin();
    group.multiply_keys(score, queries, keys);
    group_end();
    group_wait<0>();
    hold(score);
    take_scores(score, tile.walk, 0, own, &group);
    group.pack_weights(score, weights);
    for (int i = 2; i < tile.walk.pages; i += 2) {
      keys = wait_for_keys();
      group_begin();
      group.multiply_keys(score, queries, keys);
      group_end();
      uint32_t values = wait_for_values();
      group_begin();
      group.add_values(weights, values);
      group_end();
      group_wait<1>();
      hold(score);
      take_scores(score, tile.walk, i, own, &group);
      group_wait<0>();
      hold(group.out);
      release_values();
      group.rescale();
      group.pack_weights(score, weights);
    }
    release(&memory_->queries_empty[queries_.index]);
    queries_.advance();
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
  PrefillMemory<C>* memory_;
  int group_;
  bool non_finite_;  // whether a page of the tile had values that are not finite
  RingPosition<C::kStages> keys_, values_;
  RingPosition<kTileSlots> slot_;
  RingPosition<kQuerySlots> queries_;
};

template <typename C>
__device__ __forceinline__ void begin_block(PrefillMemory<C>* memory) {
  auto init = [](uint64_t* barriers, int count, int arrivals) {
    for (int i = 0; i < count; i++) barrier_init(shared_address(barriers + i), arrivals);
  };
  if (threadIdx.x == 0) {
    constexpr int kUsers = C::kGroups * kGroupThreads / 32;
    init(memory->keys_full, C::kStages, 2);
    init(memory->keys_empty, C::kStages, kUsers * 32);
    init(memory->values_full, C::kStages, 2);
    init(memory->values_empty, C::kStages, kUsers);
    for (TileBuffer<C>& tile : memory->tiles) {
      init(&tile.full, 1, 32);
      init(&tile.empty, 1, C::kThreads - 32);
    }
    init(memory->queries_full, kQuerySlots, kQueryWarps);
    init(memory->queries_empty, kQuerySlots, kUsers);
    barrier_init_fence();
  }
  __syncthreads();
}

template <typename C>
__global__ void __launch_bounds__(C::kThreads, 1)
    prefill_hopper_kernel(const __grid_constant__ PrefillStep step) {
#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
  __trap();  // compiled for compute capability 9.0 without the matrix instructions: 90 in place of 90a
#else
  uint8_t* shared = dynamic_shared();
  auto* memory = reinterpret_cast<PrefillMemory<C>*>(shared + (1024 - shared_address(shared) % 1024) % 1024);
  begin_block(memory);
  if (threadIdx.x < kGroupThreads) {
    leave_registers<C::kFeedRegisters>();
    feed(step, memory);
  } else {
    take_registers<C::kGroupRegisters>();
    Compute<C>(step, memory).run();
  }
#endif
}

template <typename C>
cudaError_t launch_prefill(const PrefillStep& step, int multiprocessors, cudaStream_t stream) {
  int items = step.item_count(C::kRows);
  unsigned blocks = static_cast<unsigned>(std::min(items, multiprocessors));
  constexpr int kSharedBytes = static_cast<int>(sizeof(PrefillMemory<C>)) + 1024;
  return launch(stream, {dim3(blocks), dim3(C::kThreads), kSharedBytes}, prefill_hopper_kernel<C>, step);
}

}  // namespace

cudaError_t prefill_hopper(const PrefillStep& step, int multiprocessors, cudaStream_t stream) {
  return step.cache.head_dim == 128
             ? launch_prefill<PrefillConfig<128, 2, 2, 56, 224>>(step, multiprocessors, stream)
             : launch_prefill<PrefillConfig<64, 3, 4, 32, 160>>(step, multiprocessors, stream);
}

}  // namespace cuda
}  // namespace spkv
