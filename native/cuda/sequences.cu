// One warp per list, but for `create`, which is one block.
#include "cuda/sequences.h"

#include "cuda/common/launch.cuh"
#include "cuda/common/page.cuh"

namespace spkv {
namespace cuda {
namespace {

constexpr int kCreateThreads = 1024;
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

__device__ int pages_for(int kept) { return (kept + kPageSlots - 1) / kPageSlots; }

__global__ void reset_kernel(CacheState cache) {
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < cache.capacity_pages;
       i += int64_t{gridDim.x} * kThreads) {
    cache.free_pages[i] = static_cast<int32_t>(cache.capacity_pages - 1 - i);
    cache.references[i] = 0;
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    *cache.free_count = cache.capacity_pages;
    *cache.least_free = cache.capacity_pages;
  }
}

// One block, because all have to read the count before it changes. Lists take pages from the top down.
__global__ void __launch_bounds__(kCreateThreads) create_kernel(CacheState cache, NewSequence sequence) {
  int lists = cache.layers * cache.kv_heads, top = *cache.free_count;
  __syncthreads();
  for (int i = threadIdx.x; i < lists; i += kCreateThreads) {
    int64_t list = cache.list(i / cache.kv_heads, sequence.slot, i % cache.kv_heads);
    ListStart start = {0, i * cache.ring_pages};
    if (sequence.starts) start = sequence.starts[i];
    for (int j = 0; j < cache.ring_pages + pages_for(start.kept); j++) {
      int32_t page = cache.free_pages[top - 1 - start.first - j];
      cache.table[list * cache.table_pages + j] = page;
      cache.references[page] = 1;
    }
    for (int j = 0; j < cache.keep_words; j++) cache.keep[list * cache.keep_words + j] = 0;
    cache.kept[list] = start.kept;
  }
  if (threadIdx.x == 0) {
    cache.length[sequence.slot] = sequence.length;
    cache.oldest[sequence.slot] = sequence.oldest;
    cache.threshold[sequence.slot] = sequence.threshold;
    *cache.free_count = top - sequence.pages;
    *cache.least_free = min(*cache.least_free, top - sequence.pages);
  }
}

// The list of this warp, and the same in another sequence.
struct WarpList {
  int lane, layer, head;
  bool there;
  __device__ explicit WarpList(const CacheState& cache) : lane(threadIdx.x % 32) {
    int number = blockIdx.x * kWarps + threadIdx.x / 32;
    layer = number / cache.kv_heads;
    head = number % cache.kv_heads;
    there = number < cache.layers * cache.kv_heads;
  }
};

// Lets go of pages [begin, end) of a row. For all lanes of a warp. In which order pages go back depends on
// chance; nothing else does on which page a list has.
__device__ void release_pages(const CacheState& cache, const int32_t* row, int begin, int end) {
  int lane = threadIdx.x % 32;
  for (int i = begin; i < end; i += 32) {
    int32_t page = i + lane < end ? row[i + lane] : -1;
    bool last = page >= 0 && atomicSub(cache.references + page, 1) == 1;
    unsigned mask = __ballot_sync(~0u, last);
    int place = 0;
    if (lane == 0 && mask != 0) place = atomicAdd(cache.free_count, __popc(mask));
    place = __shfl_sync(~0u, place, 0) + __popc(mask & ((1u << lane) - 1));
    if (last) cache.free_pages[place] = page;
  }
}

__global__ void __launch_bounds__(kThreads) release_kernel(CacheState cache, int slot) {
  WarpList at(cache);
  if (!at.there) return;
  int64_t list = cache.list(at.layer, slot, at.head);
  release_pages(cache, cache.table + list * cache.table_pages, 0,
                cache.ring_pages + pages_for(cache.kept[list]));
}

__global__ void __launch_bounds__(kThreads) fork_kernel(CacheState cache, int slot, int copy) {
  WarpList at(cache);
  if (!at.there) return;
  int64_t from = cache.list(at.layer, slot, at.head), to = cache.list(at.layer, copy, at.head);
  int kept = cache.kept[from];
  for (int i = at.lane; i < cache.ring_pages + pages_for(kept); i += 32) {
    int32_t page = cache.table[from * cache.table_pages + i];
    cache.table[to * cache.table_pages + i] = page;
    atomicAdd(cache.references + page, 1);
  }
  for (int i = at.lane; i < cache.keep_words; i += 32)
    cache.keep[to * cache.keep_words + i] = cache.keep[from * cache.keep_words + i];
  if (at.lane == 0) cache.kept[to] = kept;
  if (at.lane == 0 && at.layer == 0 && at.head == 0) {
    cache.length[copy] = cache.length[slot];
    cache.oldest[copy] = cache.oldest[slot];
    cache.threshold[copy] = cache.threshold[slot];
  }
}

// `length` and `oldest` are those before; `trim_lengths` follows with the new ones.
__global__ void __launch_bounds__(kThreads) rewind_kernel(CacheState cache, int slot, int tokens) {
  WarpList at(cache);
  if (!at.there) return;
  int64_t list = cache.list(at.layer, slot, at.head);
  int length = cache.length[slot], kept = cache.kept[list], back = kept;
  if (tokens < length) {
    int from = max(0, length - tokens - cache.window), to = max(0, length - cache.window);
    back = 0;
    for (int p = from + at.lane; p < to; p += 32) {
      int ring_slot = p % cache.ring_slots;
      back += cache.keep[list * cache.keep_words + ring_slot / 32] >> (ring_slot % 32) & 1;
    }
    __syncwarp();
    back = __reduce_add_sync(~0u, back);
  }
  release_pages(cache, cache.table + list * cache.table_pages, cache.ring_pages + pages_for(kept - back),
                cache.ring_pages + pages_for(kept));
  if (at.lane == 0) cache.kept[list] = kept - back;
}

__global__ void trim_lengths(CacheState cache, int slot, int tokens) {
  if (tokens == cache.length[slot]) cache.oldest[slot] = 0;
  cache.length[slot] -= tokens;
}

__global__ void __launch_bounds__(kThreads) count_shared_kernel(CacheState cache, int slot, int32_t* count) {
  WarpList at(cache);
  if (!at.there) return;
  int64_t list = cache.list(at.layer, slot, at.head);
  int shared = 0;
  for (int i = at.lane; i < cache.ring_pages + pages_for(cache.kept[list]); i += 32)
    shared += cache.references[cache.table[list * cache.table_pages + i]] > 1;
  __syncwarp();
  shared = __reduce_add_sync(~0u, shared);
  if (at.lane == 0) atomicAdd(count, shared);
}

// One block per list of `from`.
__global__ void __launch_bounds__(kThreads) move_kernel(CacheState from, CacheState to) {
  int64_t old_list = blockIdx.x;
  int head = static_cast<int>(old_list % from.kv_heads);
  int sequence = static_cast<int>(old_list / from.kv_heads % from.sequences);
  int layer = static_cast<int>(old_list / from.kv_heads / from.sequences);
  int64_t list = to.list(layer, sequence, head);
  for (int i = threadIdx.x; i < from.table_pages; i += kThreads)
    to.table[list * to.table_pages + i] = from.table[old_list * from.table_pages + i];
  for (int i = threadIdx.x; i < from.keep_words; i += kThreads)
    to.keep[list * to.keep_words + i] = from.keep[old_list * from.keep_words + i];
  if (threadIdx.x == 0) to.kept[list] = from.kept[old_list];
  if (threadIdx.x == 0 && layer == 0 && head == 0) {
    to.length[sequence] = from.length[sequence];
    to.oldest[sequence] = from.oldest[sequence];
    to.threshold[sequence] = from.threshold[sequence];
  }
}

LaunchShape warp_per_list(const CacheState& cache) {
  return {dim3(blocks_for(int64_t{cache.layers} * cache.kv_heads, kWarps)), dim3(kThreads)};
}

}  // namespace

cudaError_t reset_cache(const CacheState& cache, cudaStream_t stream) {
  LaunchShape shape = {dim3(64), dim3(kThreads)};
  return launch(stream, shape, reset_kernel, cache);
}

cudaError_t create_sequence(const CacheState& cache, const NewSequence& sequence, cudaStream_t stream) {
  LaunchShape shape = {dim3(1), dim3(kCreateThreads)};
  return launch(stream, shape, create_kernel, cache, sequence);
}

cudaError_t release_sequence(const CacheState& cache, int slot, cudaStream_t stream) {
  return launch(stream, warp_per_list(cache), release_kernel, cache, slot);
}

cudaError_t fork_sequence(const CacheState& cache, int slot, int copy, cudaStream_t stream) {
  return launch(stream, warp_per_list(cache), fork_kernel, cache, slot, copy);
}

cudaError_t rewind_sequence(const CacheState& cache, int slot, int tokens, cudaStream_t stream) {
  cudaError_t error = launch(stream, warp_per_list(cache), rewind_kernel, cache, slot, tokens);
  return error == cudaSuccess ? launch(stream, LaunchShape(), trim_lengths, cache, slot, tokens) : error;
}

cudaError_t count_shared_pages(const CacheState& cache, int slot, int32_t* count, cudaStream_t stream) {
  return launch(stream, warp_per_list(cache), count_shared_kernel, cache, slot, count);
}

cudaError_t move_tables(const CacheState& from, const CacheState& to, cudaStream_t stream) {
  int64_t lists = int64_t{from.layers} * from.sequences * from.kv_heads;
  if (lists == 0) return cudaSuccess;
  LaunchShape shape = {dim3(static_cast<unsigned>(lists)), dim3(kThreads)};
  return launch(stream, shape, move_kernel, from, to);
}

}  // namespace cuda
}  // namespace spkv
