#include "cuda/sequences.h"

#include "cuda/common/launch.cuh"
#include "cuda/common/page.cuh"

namespace spkv {
namespace cuda {
namespace {

constexpr int kThreads = 1024;

__global__ void reset_kernel(CacheState cache) {
  for (int i = blockIdx.x * kThreads + threadIdx.x; i < cache.capacity_pages; i += gridDim.x * kThreads)
    cache.free_pages[i] = cache.capacity_pages - 1 - i;
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    *cache.free_count = cache.capacity_pages;
    *cache.status = StepStatus();
  }
}

// One block, because all lists share the free pages. List i takes R pages from the top down.
__global__ void __launch_bounds__(kThreads) create_kernel(CacheState cache, int slot, float threshold) {
  int lists = cache.layers * cache.kv_heads, top = *cache.free_count;
  int needed = lists * cache.ring_pages;
  __syncthreads();  // all have read the count
  if (needed > top) {
    if (threadIdx.x == 0) {
      cache.status->missing_pages = needed - top;
      cache.status->failure = StepFailure::kPoolExhausted;
    }
    return;
  }
  for (int i = threadIdx.x; i < lists; i += kThreads) {
    int64_t list = cache.list(i / cache.kv_heads, slot, i % cache.kv_heads);
    for (int j = 0; j < cache.ring_pages; j++)
      cache.table[list * cache.table_pages + j] = cache.free_pages[top - 1 - i * cache.ring_pages - j];
    for (int j = 0; j < cache.keep_words; j++) cache.keep[list * cache.keep_words + j] = 0;
    cache.kept[list] = 0;
  }
  if (threadIdx.x == 0) {
    cache.length[slot] = 0;
    cache.threshold[slot] = threshold;
    *cache.free_count = top - needed;
  }
}

// In which order the lists' pages go back depends on chance; nothing else does on which page a list has.
__global__ void __launch_bounds__(kThreads) release_kernel(CacheState cache, int slot) {
  __shared__ int top;
  if (threadIdx.x == 0) top = *cache.free_count;
  __syncthreads();
  int lists = cache.layers * cache.kv_heads;
  for (int i = threadIdx.x; i < lists; i += kThreads) {
    int64_t list = cache.list(i / cache.kv_heads, slot, i % cache.kv_heads);
    int pages = cache.ring_pages + (cache.kept[list] + kPageSlots - 1) / kPageSlots;
    int place = atomicAdd(&top, pages);
    for (int j = 0; j < pages; j++) cache.free_pages[place + j] = cache.table[list * cache.table_pages + j];
    cache.kept[list] = 0;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    *cache.free_count = top;
    cache.length[slot] = 0;
  }
}

}  // namespace

cudaError_t reset_cache(const CacheState& cache, cudaStream_t stream) {
  return launch(stream, {dim3(64), dim3(kThreads)}, reset_kernel, cache);
}

cudaError_t create_sequence(const CacheState& cache, int slot, float threshold, cudaStream_t stream) {
  return launch(stream, {dim3(1), dim3(kThreads)}, create_kernel, cache, slot, threshold);
}

cudaError_t release_sequence(const CacheState& cache, int slot, cudaStream_t stream) {
  return launch(stream, {dim3(1), dim3(kThreads)}, release_kernel, cache, slot);
}

}  // namespace cuda
}  // namespace spkv
