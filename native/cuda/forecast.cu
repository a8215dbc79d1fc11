// One warp per list, 32 tokens at a time: lane i says what the token i brings, and all count what has come
// up to theirs. It is core/forecast.h for a whole warp.
#include "cuda/forecast.h"

#include "cuda/common/launch.cuh"
#include "cuda/common/page.cuh"

namespace spkv {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

__device__ int64_t pages_for(int64_t pairs) { return (pairs + kPageSlots - 1) / kPageSlots; }

// In how many lanes up to this one it is true.
__device__ int count_up_to(int lane, unsigned mask) { return __popc(mask & (~0u >> (31 - lane))); }

// Blocks [lists / kWarps, B].
__global__ void __launch_bounds__(kThreads)
    forecast_kernel(CacheState cache, int32_t* pages, const int32_t* slots, int tokens) {
  const int number = blockIdx.x * kWarps + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (number >= cache.layers * cache.kv_heads) return;
  const int slot = slots[blockIdx.y];
  const int64_t list = cache.list(number / cache.kv_heads, slot, number % cache.kv_heads);
  const int64_t length = cache.length[slot], kept = cache.kept[list];
  const int32_t* row = cache.table + list * cache.table_pages;
  const uint32_t* keep = cache.keep + list * cache.keep_words;
  auto shared = [&](int64_t page) { return cache.references[row[page]] > 1; };
  const bool last_shared = kept % kPageSlots != 0 && shared(cache.ring_pages + kept / kPageSlots);
  const int64_t first_page = length % cache.ring_slots / kPageSlots;
  int leaving = 0, copies = 0;
  for (int start = 0; start < tokens; start += 32) {
    const int i = start + lane;
    const int64_t position = length + i, leaves = position - cache.window;
    // Writing to a page of the ring for the first time.
    const int64_t at = position % cache.ring_slots, page = at / kPageSlots;
    const bool enters = at % kPageSlots == 0 && i < cache.ring_slots && page != first_page;
    const bool copied = i < tokens && (i == 0 || enters) && shared(page);
    bool kept_on = i < tokens && leaves >= 0;
    if (kept_on && leaves < length) {
      const int64_t left = leaves % cache.ring_slots;
      kept_on = keep[left / 32] >> (left % 32) & 1;
    }
    __syncwarp();
    const unsigned copied_mask = __ballot_sync(~0u, copied), kept_mask = __ballot_sync(~0u, kept_on);
    const int more = leaving + count_up_to(lane, kept_mask);
    const int64_t taken = pages_for(kept + more) - pages_for(kept) + (more > 0 && last_shared) + copies +
                          count_up_to(lane, copied_mask);
    if (i < tokens && taken > 0)
      atomicAdd(pages + int64_t{blockIdx.y} * tokens + i, static_cast<int32_t>(taken));
    leaving += __popc(kept_mask);
    copies += __popc(copied_mask);
  }
}

}  // namespace

cudaError_t forecast_pages(const CacheState& cache, int32_t* pages, const int32_t* slots, int batch,
                           int tokens, cudaStream_t stream) {
  const size_t bytes = sizeof(int32_t) * static_cast<size_t>(batch) * static_cast<size_t>(tokens);
  cudaError_t error = cudaMemsetAsync(pages, 0, bytes, stream);
  LaunchShape shape = {
      dim3(blocks_for(int64_t{cache.layers} * cache.kv_heads, kWarps), static_cast<unsigned>(batch)),
      dim3(kThreads)};
  return error == cudaSuccess ? launch(stream, shape, forecast_kernel, cache, pages, slots, tokens) : error;
}

}  // namespace cuda
}  // namespace spkv
