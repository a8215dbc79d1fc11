#include "cuda/page_content.h"

#include <algorithm>

#include "cuda/common/launch.cuh"
#include "cuda/common/pairs.cuh"

namespace spkv {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr unsigned kMostBlocks = 1024;

// Numbers of a key or value, and the scale of an fp8 row.
__host__ __device__ int row_numbers(const CacheState& cache) {
  return cache.head_dim + (cache.dtype == DType::kFP8 ? 1 : 0);
}

// One thread per number.
template <typename T, bool kWrite>
__global__ void __launch_bounds__(kThreads) rows_kernel(CacheState cache, ListRows list) {
  PageLayout layout(cache);
  const int32_t* row = cache.table + list.list * cache.table_pages;
  int width = row_numbers(cache);
  int64_t kept_numbers = int64_t{2} * list.kept * width;
  int64_t numbers = kept_numbers + int64_t{2} * list.ring * width;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < numbers;
       i += int64_t{gridDim.x} * kThreads) {
    bool in_ring = i >= kept_numbers;
    int64_t pair = (in_ring ? i - kept_numbers : i) / width;
    int d = static_cast<int>(i % width);
    int count = in_ring ? list.ring : list.kept;
    bool value = pair >= count;
    if (value) pair -= count;
    int64_t slot = in_ring ? (list.oldest + pair) % cache.ring_slots : pair;
    int32_t page = row[(in_ring ? 0 : cache.ring_pages) + slot / kPageSlots];
    int at = static_cast<int>(slot % kPageSlots);
    int64_t offset = d < cache.head_dim ? layout.number(at, value, d) : layout.scale(at, value);
    T* there = reinterpret_cast<T*>(page_at(cache, page) + offset);
    T* here = reinterpret_cast<T*>(list.rows) + i;
    if (kWrite) {
      *there = *here;
    } else {
      *here = *there;
    }
  }
}

template <bool kWrite>
cudaError_t move_rows(const CacheState& cache, const ListRows& list, cudaStream_t stream) {
  int64_t numbers = int64_t{2} * (int64_t{list.kept} + list.ring) * row_numbers(cache);
  if (numbers == 0) return cudaSuccess;
  LaunchShape shape = {dim3(static_cast<unsigned>(
                           std::min<int64_t>((numbers + kThreads - 1) / kThreads, int64_t{kMostBlocks}))),
                       dim3(kThreads)};
  if (cache.dtype == DType::kFP8) return launch(stream, shape, rows_kernel<uint8_t, kWrite>, cache, list);
  return cache.dtype == DType::kBF16 ? launch(stream, shape, rows_kernel<uint16_t, kWrite>, cache, list)
                                     : launch(stream, shape, rows_kernel<uint32_t, kWrite>, cache, list);
}

// All bits set is a NaN in every dtype.
__global__ void __launch_bounds__(kThreads) poison_free_kernel(CacheState cache) {
  int64_t words = cache.page_bytes / 16;
  for (int i = blockIdx.x; i < *cache.free_count; i += gridDim.x) {
    uint4* page = reinterpret_cast<uint4*>(page_at(cache, cache.free_pages[i]));
    for (int64_t j = threadIdx.x; j < words; j += kThreads) page[j] = make_uint4(~0u, ~0u, ~0u, ~0u);
  }
}

// Whether the slot of page `i` of a list holds a live pair.
__device__ bool is_live(const CacheState& cache, int sequence, int kept, int i, int slot) {
  int64_t at = int64_t{i} * kPageSlots + slot, slots = cache.ring_slots;
  if (i >= cache.ring_pages) return at - int64_t{cache.ring_pages} * kPageSlots < kept;
  // The last position below the length that this slot can hold.
  int64_t last = int64_t{cache.length[sequence]} - 1;
  int64_t position = last - ((last - at) % slots + slots) % slots;
  return at < slots && position >= cache.oldest[sequence];
}

// One block per list. A page that others hold, too, may have pairs that are live only there.
__global__ void __launch_bounds__(kThreads) poison_dead_kernel(CacheState cache, int sequence) {
  PageLayout layout(cache);
  int64_t list = cache.list(blockIdx.x / cache.kv_heads, sequence, blockIdx.x % cache.kv_heads);
  int kept = cache.kept[list], pages = cache.ring_pages + (kept + kPageSlots - 1) / kPageSlots;
  for (int i = 0; i < pages; i++) {
    int32_t id = cache.table[list * cache.table_pages + i];
    if (cache.references[id] > 1) continue;
    uint8_t* page = page_at(cache, id);
    for (int j = threadIdx.x; j < kPageSlots * cache.head_dim; j += kThreads) {
      int slot = j / cache.head_dim, d = j % cache.head_dim;
      if (is_live(cache, sequence, kept, i, slot)) continue;
      uint8_t *key = page + layout.number(slot, false, d), *value = page + layout.number(slot, true, d);
      if (cache.dtype == DType::kFP8) {
        *key = 0xff;
        *value = 0x7e;
        page[layout.scale(slot, false)] = fp8::kNonFinite;
        page[layout.scale(slot, true)] = fp8::kMostScale;
      } else if (cache.dtype == DType::kBF16) {
        *reinterpret_cast<uint16_t*>(key) = 0x7fc0;
        *reinterpret_cast<uint16_t*>(value) = 0x7f7f;
      } else {
        *reinterpret_cast<uint32_t*>(key) = 0x7fc00000;
        *reinterpret_cast<uint32_t*>(value) = 0x7f7fffff;
      }
    }
  }
}

}  // namespace

cudaError_t read_rows(const CacheState& cache, const ListRows& list, cudaStream_t stream) {
  return move_rows<false>(cache, list, stream);
}

cudaError_t write_rows(const CacheState& cache, const ListRows& list, cudaStream_t stream) {
  return move_rows<true>(cache, list, stream);
}

cudaError_t poison_free_pages(const CacheState& cache, cudaStream_t stream) {
  LaunchShape shape = {dim3(std::min(static_cast<unsigned>(cache.capacity_pages), kMostBlocks)),
                       dim3(kThreads)};
  return launch(stream, shape, poison_free_kernel, cache);
}

cudaError_t poison_dead_slots(const CacheState& cache, int slot, cudaStream_t stream) {
  LaunchShape shape = {dim3(static_cast<unsigned>(cache.layers * cache.kv_heads)), dim3(kThreads)};
  return launch(stream, shape, poison_dead_kernel, cache, slot);
}

}  // namespace cuda
}  // namespace spkv
