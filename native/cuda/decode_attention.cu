// How the grid maps to the work: one persistent block per SM reads the units that the plan gives it. One warp
// only copies: it streams pages through a ring of stages in shared memory. Four warps compute; warp w takes
// slots [16w, 16w + 16) of every page.
//
//   stage      0       1       2       3       4       5
//          | page  | page  | page  |  ...                  full[s]: the page is there; empty[s]: 4 warps are
//                                                          done with it
//
// The part of an item that lies in one block is a fragment. After each, the four warps' states are merged in
// shared memory; the fragments of an item that was cut go to `partials`, and the block that comes last merges
// them in order:
//
//   partials [2 * blocks]     2c: the fragment of block c whose item began in a block before
//                             2c + 1: the fragment of block c whose item goes on behind it
#include "cuda/decode_attention.h"

#include "cuda/decode_merge.cuh"
#include "cuda/decode_tile.cuh"

namespace spkv {
namespace cuda {
namespace {

// What block `c` reads of one item: units [begin, end) of the item, of which the ring has `ring_units`.
struct Fragment {
  ItemPlan item;
  int index;  // of the item in its layer
  int begin, end;
  int ring_units, ring_rows;

  __device__ Fragment(const DecodeAttentionParams& p, const BlockPlan& block, int index) : index(index) {
    const int4* from = reinterpret_cast<const int4*>(
        p.plan.items + static_cast<int64_t>(p.layer) * p.plan.batch * p.cache.kv_heads + index);
    int4* to = reinterpret_cast<int4*>(&item);
    to[0] = from[0];
    to[1] = from[1];
    begin = max(0, block.begin - item.first_unit);
    end = min(item.units, block.end - item.first_unit);
    ring_rows = min(item.length, p.cache.ring_slots);
    ring_units = (ring_rows + kPageSlots - 1) / kPageSlots;
  }

  __device__ int rows(int unit) const {
    return unit < ring_units ? min(kPageSlots, ring_rows - unit * kPageSlots)
                             : min(kPageSlots, item.kept - (unit - ring_units) * kPageSlots);
  }
  __device__ int table_index(int unit, const CacheState& cache) const {
    return unit < ring_units ? unit : cache.ring_pages + unit - ring_units;
  }
};

// Streams the pages of all fragments of this block through the stages.
template <typename Config>
__device__ void produce(const DecodeAttentionParams& p, const BlockPlan& block, uint32_t stages,
                        uint32_t full, uint32_t empty) {
  int lane = threadIdx.x % 32, stage = 0;
  uint32_t phase = 1;
  uint64_t policy = evict_first_policy();
  int unit = block.begin;
  for (int index = block.item; unit < block.end; index++) {
    Fragment fragment(p, block, index);
    int head = index % p.cache.kv_heads;
    const int32_t* row =
        p.cache.table + p.cache.list(p.layer, fragment.item.sequence, head) * p.cache.table_pages;
    // The page ids of 32 units at a time, one per lane, so that waiting for the table is rare.
    for (int first = fragment.begin; first < fragment.end; first += 32) {
      int mine = first + lane;
      bool there = mine < fragment.end && fragment.rows(mine) > 0;
      int32_t id = there ? row[fragment.table_index(mine, p.cache)] : 0;
      int count = min(32, fragment.end - first);
      for (int i = 0; i < count; i++) {
        int32_t page = __shfl_sync(~0u, id, i);
        if (lane == 0) {
          barrier_wait(empty + 8 * stage, phase);
          const uint8_t* from = p.cache.pool + static_cast<int64_t>(page) * Config::kPageBytes;
          uint32_t to = stages + stage * Config::kPageBytes, barrier = full + 8 * stage;
          int rows = fragment.rows(first + i);
          if (rows == kPageSlots) {
            barrier_arrive_expect(barrier, Config::kPageBytes);
            bulk_copy(to, from, Config::kPageBytes, barrier, policy);
          } else if (rows > 0) {
            barrier_arrive_expect(barrier, 2 * Config::kPanels * rows * kRowBytes);
            for (int panel = 0; panel < 2 * Config::kPanels; panel++)
              bulk_copy(to + panel * kPanelBytes, from + panel * kPanelBytes, rows * kRowBytes, barrier,
                        policy);
          } else {
            barrier_arrive(barrier);
          }
        }
        if (++stage == Config::kStages) {
          stage = 0;
          phase ^= 1;
        }
      }
    }
    unit = fragment.item.first_unit + fragment.end;
  }
}

// Which of the warp's 16 slots of a unit the new token sees.
__device__ uint32_t visible_slots(const Fragment& fragment, int unit, const CacheState& cache) {
  int row = threadIdx.x / 32 * kTileSlots + threadIdx.x % 32;
  bool seen = row < fragment.rows(unit);
  if (unit < fragment.ring_units) {
    int slot = unit * kPageSlots + row;
    int age = fragment.item.length % cache.ring_slots - slot;  // new token's position minus the slot's
    if (age <= 0) age += cache.ring_slots;
    seen = seen && age <= cache.window && slot != fragment.item.hidden_slot;
  }
  return __ballot_sync(~0u, seen) & kAllVisible;
}

// Takes in one page that has arrived.
template <typename Config>
__device__ __forceinline__ void attend_page(typename Config::State* state, uint32_t page, uint32_t visible,
                                            float scale_log2) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, matrix = lane / 8;
  // Rows of a tile start at a multiple of 8, so that row & 7 is that of the lane in its matrix.
  uint32_t key_row = page + (warp * kTileSlots + lane % 8 + matrix % 2 * 8) * kRowBytes;
  uint32_t key_chunk = (matrix / 2 ^ lane % 8) * kChunkBytes;
  uint32_t value_row =
      page + Config::kPanels * kPanelBytes + (warp * kTileSlots + lane % 8 + matrix / 2 * 8) * kRowBytes;
  uint32_t value_chunk = (matrix % 2 ^ lane % 8) * kChunkBytes;
  auto load_keys = [&](int i, uint32_t(&a)[4]) {
    load_matrices(a, key_row + i / 4 * kPanelBytes + (key_chunk ^ i % 4 * 2 * kChunkBytes));
  };
  auto load_values = [&](int i, uint32_t(&a)[4]) {
    load_matrices_transposed(a, value_row + i / 4 * kPanelBytes + (value_chunk ^ i % 4 * 2 * kChunkBytes));
  };
  if (visible == kAllVisible) {
    state->template attend<false>(load_keys, load_values, visible, scale_log2);
  } else if (visible != 0) {
    state->template attend<true>(load_keys, load_values, visible, scale_log2);
  }
}

__device__ __forceinline__ bool finite_bf16(uint32_t pair) {
  return (pair & 0x7f80) != 0x7f80 && (pair & 0x7f800000) != 0x7f800000;
}

// Takes in the step's own pair as slot 0 of a tile, straight from global memory, and checks it.
template <typename Config>
__device__ __forceinline__ void attend_new(typename Config::State* state, const DecodeAttentionParams& p,
                                           int index, float scale_log2) {
  int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  int b = index / p.cache.kv_heads, head = index % p.cache.kv_heads;
  int64_t at = b * p.kv_stride + static_cast<int64_t>(head) * Config::kDim;
  const uint32_t* key = reinterpret_cast<const uint32_t*>(p.keys + at) + t;
  const unsigned short* value = reinterpret_cast<const unsigned short*>(p.values + at) + g;
  bool good_key = true, good_value = true;
  auto load_keys = [&](int i, uint32_t(&a)[4]) {
    a[0] = g == 0 ? key[i * 8] : 0;
    a[2] = g == 0 ? key[i * 8 + 4] : 0;
    a[1] = a[3] = 0;
    good_key = good_key && finite_bf16(a[0]) && finite_bf16(a[2]);
  };
  auto load_values = [&](int i, uint32_t(&a)[4]) {
    a[0] = t == 0 ? value[i * 16] : 0;
    a[1] = t == 0 ? value[i * 16 + 8] : 0;
    a[2] = a[3] = 0;
    good_value = good_value && finite_bf16(a[0]) && finite_bf16(a[1]);
  };
  state->template attend<true>(load_keys, load_values, 1, scale_log2);
  bool good_utility = !p.utilities || isfinite(p.utilities[b * p.cache.kv_heads + head]);
  if (good_key && good_value && good_utility) return;
  atomicMin(&p.cache.status->non_finite, p.layer * 3 + (!good_key ? 0 : !good_value ? 1 : 2));
}

template <typename Config>
__device__ void consume(const DecodeAttentionParams& p, const BlockPlan& block, uint32_t stages,
                        uint32_t full, uint32_t empty, MergeBuffer<Config>* buffer) {
  int lane = threadIdx.x % 32, stage = 0;
  uint32_t phase = 0;
  int group = p.heads / p.cache.kv_heads, unit = block.begin;
  float scale_log2 = p.scale * 1.44269504f;
  typename Config::State state;
  for (int index = block.item; unit < block.end; index++) {
    Fragment fragment(p, block, index);
    int b = index / p.cache.kv_heads, head = index % p.cache.kv_heads;
    state.begin(p.q + b * p.q_stride + static_cast<int64_t>(head) * group * Config::kDim, group);
    if (fragment.begin == 0 && threadIdx.x < 32) attend_new<Config>(&state, p, index, scale_log2);
    for (int i = fragment.begin; i < fragment.end; i++) {
      uint32_t visible = kAllVisible;
      if (i < fragment.ring_units || fragment.rows(i) < kPageSlots)
        visible = visible_slots(fragment, i, p.cache);
      barrier_wait(full + 8 * stage, phase);
      attend_page<Config>(&state, stages + stage * Config::kPageBytes, visible, scale_log2);
      __syncwarp();
      if (lane == 0) barrier_arrive(empty + 8 * stage);
      if (++stage == Config::kStages) {
        stage = 0;
        phase ^= 1;
      }
    }
    state.finish();
    merge_fragment<Config>(p, block, fragment.item, index, state, buffer, scale_log2);
    unit = fragment.item.first_unit + fragment.end;
  }
}

template <typename Config>
__global__ void __launch_bounds__(Config::kThreads, 1)
    decode_kernel(const __grid_constant__ DecodeAttentionParams p) {
  extern __shared__ uint8_t shared[];
  uint8_t* aligned = shared + (1024 - shared_address(shared) % 1024) % 1024;
  auto* buffer = reinterpret_cast<MergeBuffer<Config>*>(aligned + Config::kStages * Config::kPageBytes);
  uint32_t stages = shared_address(aligned), full = shared_address(buffer->full),
           empty = shared_address(buffer->empty);
  if (threadIdx.x == 0) {
    for (int i = 0; i < Config::kStages; i++) {
      barrier_init(full + 8 * i, 1);
      barrier_init(empty + 8 * i, kComputeWarps);
    }
    barrier_init_fence();
  }
  __syncthreads();
  allow_next_launch();
  if (!p.overlap_previous) wait_for_previous_launch();
  BlockPlan block = p.plan.ctas[static_cast<int64_t>(p.layer) * p.plan.blocks + blockIdx.x];
  if (threadIdx.x >= kComputeWarps * 32) {
    produce<Config>(p, block, stages, full, empty);
  } else {
    wait_for_previous_launch();
    consume<Config>(p, block, stages, full, empty, buffer);
  }
}

template <typename Config>
cudaError_t launch(const DecodeAttentionParams& params, cudaStream_t stream) {
  cudaError_t error = cudaFuncSetAttribute(decode_kernel<Config>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           Config::kSharedBytes);
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(params.plan.blocks));
  config.blockDim = dim3(Config::kThreads);
  config.dynamicSmemBytes = Config::kSharedBytes;
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = params.overlap_previous ? 1 : 0;
  return cudaLaunchKernelEx(&config, decode_kernel<Config>, params);
}

}  // namespace

int64_t decode_partial_floats(int head_dim, int group, int blocks) {
  return int64_t{2} * blocks * partial_floats(head_dim, group <= 8 ? 8 : 16);
}

cudaError_t decode_attention(const DecodeAttentionParams& params, cudaStream_t stream) {
  int group = params.heads / params.cache.kv_heads;
  if (group < 1 || group > 16 || group * params.cache.kv_heads != params.heads || !(params.scale > 0))
    return cudaErrorInvalidValue;
  if (params.cache.head_dim == 128)
    return group <= 8 ? launch<DecodeConfig<128, 1, 6>>(params, stream)
                      : launch<DecodeConfig<128, 2, 5>>(params, stream);
  if (params.cache.head_dim == 64)
    return group <= 8 ? launch<DecodeConfig<64, 1, 12>>(params, stream)
                      : launch<DecodeConfig<64, 2, 12>>(params, stream);
  return cudaErrorInvalidValue;
}

}  // namespace cuda
}  // namespace spkv
