// How the grid maps to the work: one persistent block per SM takes the units that the plan gives it. See
// decode_block.cuh for what its warps do.
#include "cuda/decode_attention.h"

#include "cuda/common/launch.cuh"
#include "cuda/decode_feed.cuh"
#include "cuda/decode_merge.cuh"

namespace spkv {
namespace cuda {
namespace {

// Takes in the warp's 16 slots of a page that has arrived.
template <typename Config>
__device__ __forceinline__ void attend_page(typename Config::State* state, uint32_t page, uint32_t visible,
                                            float scale_log2) {
  typename Config::Form::Tile tile(page, threadIdx.x / 32 % kTeamWarps * kTileSlots);
  if (visible == kAllVisible) {
    state->template attend<false>(tile, visible, scale_log2);
  } else if (visible != 0) {
    state->template attend<true>(tile, visible, scale_log2);
  }
}

// Takes in what the block has of the next item, and hands the result over.
template <typename Config>
__device__ __forceinline__ ItemPlan compute_item(const DecodeAttentionParams& p, const BlockPlan& block,
                                                 RingPosition<Config::kStages>* stage,
                                                 RingPosition<kItemSlots>* at, RingPosition<1>* turn,
                                                 BlockMemory<Config>* memory) {
  int lane = threadIdx.x % 32, team = threadIdx.x / 32 / kTeamWarps;
  float scale_log2 = p.scale * 1.44269504f;
  typename Config::State state;
  const ItemSlot<Config>& slot = memory->items[at->index];
  barrier_wait(shared_address(&memory->item_full[at->index]), at->phase);
  ItemPlan item = slot.plan;
  state.begin(slot.q[0], Config::kQueryStride, p.heads / p.cache.kv_heads);
  int begin = fragment_begin(block, item), end = fragment_end(block, item);
  if (begin == 0 && threadIdx.x < 32) {
    typename Config::Form::NewTile tile(slot.key, slot.value);  // slot 0 has the step's own pair
    state.template attend<true>(tile, 1, scale_log2);
  }
  __syncwarp();
  if (lane == 0) barrier_arrive(shared_address(&memory->item_empty[at->index]));
  at->advance();
  Units units(item.length, item.kept, p.cache);
  for (int i = begin; i < end; i++, stage->advance()) {
    if (stage->index % Config::kTeams != team) continue;
    uint32_t visible = kAllVisible;
    if (i < units.ring_units || units.rows(i) < kPageSlots) visible = visible_slots(units, item, i, p.cache);
    barrier_wait(shared_address(&memory->page_full[stage->index]), stage->phase);
    attend_page<Config>(&state, shared_address(memory->stages[stage->index]), visible, scale_log2);
    __syncwarp();
    if (lane == 0) barrier_arrive(shared_address(&memory->page_empty[stage->index]));
  }
  state.finish();
  barrier_wait(shared_address(&memory->merge_empty), turn->phase ^ 1);
  turn->advance();
  share_state<Config>(state, &memory->merge);
  barrier_arrive(shared_address(&memory->merge_full));
  return item;
}

// What the compute warps do.
template <typename Config>
__device__ __forceinline__ void compute_items(const DecodeAttentionParams& p, const BlockPlan& block,
                                              BlockMemory<Config>* memory) {
  RingPosition<Config::kStages> stage;
  RingPosition<kItemSlots> at;
  RingPosition<1> turn;
  int unit = block.begin;
  while (unit < block.end) {
    ItemPlan item = compute_item(p, block, &stage, &at, &turn, memory);
    unit = item.first_unit + item.units;
  }
}

template <typename Config>
__device__ __forceinline__ void begin_block(BlockMemory<Config>* memory) {
  auto init = [](uint64_t* barriers, int count, int arrivals) {
    for (int i = 0; i < count; i++) barrier_init(shared_address(barriers + i), arrivals);
  };
  if (threadIdx.x == 0) {
    init(memory->page_full, Config::kStages, 1);
    init(memory->page_empty, Config::kStages, kTeamWarps);
    init(memory->item_full, kItemSlots, 1);
    init(memory->item_empty, kItemSlots, Config::kComputeWarps + kMergeWarps);
    init(&memory->merge_full, 1, Config::kComputeWarps * 32);
    init(&memory->merge_empty, 1, kMergeThreads);
    barrier_init_fence();
  }
  __syncthreads();
}

template <typename Config>
__global__ void __launch_bounds__(Config::kThreads, 1)
    decode_kernel(const __grid_constant__ DecodeAttentionParams p) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900  // earlier GPUs take general_attention
  uint8_t* shared = dynamic_shared();
  auto* memory =
      reinterpret_cast<BlockMemory<Config>*>(shared + (1024 - shared_address(shared) % 1024) % 1024);
  begin_block(memory);
  // The next launch may read what those before this one have written, so where they can still be under way it
  // has to wait, too.
  if (!p.overlap_previous) wait_for_previous_launch();
  allow_next_launch();
  BlockPlan block = p.plan.block_plans[static_cast<int64_t>(p.layer) * p.plan.blocks + blockIdx.x];
  int warp = threadIdx.x / 32;
  if (warp == Config::kPageWarp) {
    feed_pages(p, block, memory);
    return;
  }
  wait_for_previous_launch();
  if (warp == Config::kItemWarp) {
    feed_items(p, block, memory);
  } else if (warp < Config::kComputeWarps) {
    compute_items(p, block, memory);
  } else {
    merge_items(p, block, memory);
  }
#endif
}

template <typename Config>
cudaError_t launch_decode(const DecodeAttentionParams& params, cudaStream_t stream) {
  constexpr int kSharedBytes = static_cast<int>(sizeof(BlockMemory<Config>)) + 1024;
  LaunchShape shape = {dim3(static_cast<unsigned>(params.plan.blocks)), dim3(Config::kThreads), kSharedBytes};
  shape.early = true;  // wait_for_previous_launch keeps the order
  return launch(stream, shape, decode_kernel<Config>, params);
}

// 80 to 100 KB of pages under way keep the memory busy. More do not read faster, but let the SMs' shares of
// the bandwidth drift apart. Pages in fp8 come twice as fast and take more instructions, so two teams work on
// them where the registers suffice.
template <template <int> class Form, int kPages, int kHalves, int kTeams>
cudaError_t launch_form(const DecodeAttentionParams& params, int group, cudaStream_t stream) {
  if (params.cache.head_dim == 128)
    return group <= 8 ? launch_decode<DecodeConfig<Form<128>, 1, kPages, kTeams>>(params, stream)
                      : launch_decode<DecodeConfig<Form<128>, 2, kPages, 1>>(params, stream);
  if (params.cache.head_dim == 64)
    return group <= 8 ? launch_decode<DecodeConfig<Form<64>, 1, kHalves, kTeams>>(params, stream)
                      : launch_decode<DecodeConfig<Form<64>, 2, kHalves, 1>>(params, stream);
  return cudaErrorInvalidValue;
}

}  // namespace

int64_t decode_partial_floats(int head_dim, int group, int blocks) {
  return int64_t{2} * blocks * partial_floats(head_dim, group <= 8 ? 8 : 16);
}

cudaError_t decode_attention(const DecodeAttentionParams& params, cudaStream_t stream) {
  int group = params.heads / params.cache.kv_heads;
  if (group < 1 || group > 16 || group * params.cache.kv_heads != params.heads || !(params.scale > 0) ||
      params.q_stride % 8 != 0 || params.kv_stride % 16 != 0)
    return cudaErrorInvalidValue;
  return params.cache.dtype == DType::kFP8 ? launch_form<Fp8Form, 6, 12, 2>(params, group, stream)
                                           : launch_form<Bf16Form, 3, 5, 1>(params, group, stream);
}

}  // namespace cuda
}  // namespace spkv
