#include "cuda/step_plan.h"

#include "cuda/common/launch.cuh"
#include "cuda/common/page.cuh"

namespace spkv {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

// Sums over the threads before this one, and over all, of two counts at once.
struct Pair {
  int32_t units, needs;
};

__device__ Pair exclusive_scan(Pair mine, Pair* all, Pair* warp_sums) {
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  Pair sum = mine;
  for (int step = 1; step < 32; step *= 2) {
    int32_t units = __shfl_up_sync(~0u, sum.units, step), needs = __shfl_up_sync(~0u, sum.needs, step);
    if (lane >= step) sum = {sum.units + units, sum.needs + needs};
  }
  __syncthreads();  // the sums of the call before have been read
  if (lane == 31) warp_sums[warp] = sum;
  __syncthreads();
  Pair before = {0, 0};
  *all = {0, 0};
  for (int i = 0; i < kWarps; i++) {
    Pair other = warp_sums[i];
    if (i < warp) before = {before.units + other.units, before.needs + other.needs};
    *all = {all->units + other.units, all->needs + other.needs};
  }
  return {before.units + sum.units - mine.units, before.needs + sum.needs - mine.needs};
}

__device__ ItemPlan describe(const CacheState& cache, int layer, int sequence, int head) {
  int64_t list = cache.list(layer, sequence, head);
  ItemPlan item;
  item.sequence = sequence;
  item.length = cache.length[sequence];
  item.kept = cache.kept[list];
  int ring = min(item.length, cache.ring_slots);
  int pages = (ring + kPageSlots - 1) / kPageSlots + (item.kept + kPageSlots - 1) / kPageSlots;
  item.units = max(1, pages);
  item.leaves = 0;
  item.hidden_slot = -1;
  item.rank = -1;
  if (item.length >= cache.window) {
    // The pair that is exactly `window` old is seen by the new token only if it is kept; at the end of the
    // step it goes to the kept pages or is gone.
    int slot = (item.length - cache.window) % cache.ring_slots;
    item.leaves = cache.keep[list * cache.keep_words + slot / 32] >> (slot % 32) & 1;
    if (!item.leaves) item.hidden_slot = slot;
  }
  return item;
}

// One block per layer.
__global__ void __launch_bounds__(kThreads) plan_kernel(StepPlanParams params) {
  __shared__ Pair warp_sums[kWarps];
  const CacheState& cache = params.cache;
  int layer = blockIdx.x, items = params.plan.batch * cache.kv_heads;
  ItemPlan* plan = params.plan.items + int64_t{layer} * items;
  Pair carry = {0, 0};
  for (int first = 0; first < items; first += kThreads) {
    int i = first + threadIdx.x;
    ItemPlan item = {};
    if (i < items) item = describe(cache, layer, params.slots[i / cache.kv_heads], i % cache.kv_heads);
    int need = item.leaves && item.kept % kPageSlots == 0;
    Pair all, before = exclusive_scan({item.units, need}, &all, warp_sums);
    item.first_unit = carry.units + before.units;
    if (need) item.rank = carry.needs + before.needs;
    if (i < items) plan[i] = item;
    carry = {carry.units + all.units, carry.needs + all.needs};
  }
  if (threadIdx.x == 0) {
    params.plan.needs[layer] = carry.needs;
    if (layer == 0) *params.plan.free_top = *cache.free_count;
  }
  __syncthreads();
  int64_t total = carry.units, blocks = min(total, static_cast<int64_t>(params.plan.blocks));
  for (int c = threadIdx.x; c < params.plan.blocks; c += kThreads) {
    BlockPlan block = {0, 0, 0, carry.units, {}};
    if (c < blocks) {
      block.begin = static_cast<int32_t>(c * total / blocks);
      block.end = static_cast<int32_t>((c + 1) * total / blocks);
      int low = 0, high = items - 1;  // the last item that does not start behind `begin`
      while (low < high) {
        int middle = (low + high + 1) / 2;
        if (plan[middle].first_unit <= block.begin) {
          low = middle;
        } else {
          high = middle - 1;
        }
      }
      block.item = low;
      block.first = plan[low];
    }
    params.plan.block_plans[int64_t{layer} * params.plan.blocks + c] = block;
  }
}

}  // namespace

cudaError_t plan_step(const StepPlanParams& params, cudaStream_t stream) {
  if (params.plan.batch < 1 || params.plan.blocks < 1) return cudaErrorInvalidValue;
  LaunchShape shape = {dim3(static_cast<unsigned>(params.cache.layers)), dim3(kThreads)};
  return launch(stream, shape, plan_kernel, params);
}

}  // namespace cuda
}  // namespace spkv
