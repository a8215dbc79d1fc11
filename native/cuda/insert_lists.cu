// One block per list, but for `admit`, which is one block.
#include "cuda/insert_lists.h"

#include "cuda/common/launch.cuh"
#include "cuda/common/pairs.cuh"

namespace spkv {
namespace cuda {
namespace {

constexpr int kCountThreads = 128;
constexpr int kAdmitThreads = 1024;
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

// A list of the step: who it is, and which of its pairs leave the window. These are the candidates, in order
// of position: first [0, from_ring) in the ring, then new tokens.
struct List {
  int layer, b, head, sequence, row, tokens, length, ring_from, from_ring, candidates;
  int64_t list;

  __device__ List(const InsertListsParams& p, int number, int length_before)
      : layer(number / p.cache.kv_heads / p.batch),
        b(number / p.cache.kv_heads % p.batch),
        head(number % p.cache.kv_heads),
        sequence(p.slots[b]),
        row(p.offsets[b]),
        tokens(p.offsets[b + 1] - row),
        length(length_before),
        list(p.cache.list(layer, sequence, head)) {
    int end = length + tokens - p.cache.window;
    ring_from = max(0, length - p.cache.window);
    from_ring = max(0, min(end, length) - ring_from);
    candidates = from_ring + max(0, end - length);
  }
  __device__ bool leaves(const InsertListsParams& p, int candidate) const {
    if (candidate >= from_ring)
      return p.pairs.kept(layer, row + candidate - from_ring, head, p.cache.threshold[sequence]);
    int slot = (ring_from + candidate) % p.cache.ring_slots;
    return p.cache.keep[list * p.cache.keep_words + slot / 32] >> (slot % 32) & 1;
  }
};

__device__ int pages_for(int kept) { return (kept + kPageSlots - 1) / kPageSlots; }

// Gives up a reference to a page that is about to be written, if others hold it. If all owners of a page give
// it up in one step, the last one has it.
__device__ int give_up(const CacheState& cache, int32_t* entry) {
  int32_t page = *entry;
  if (cache.references[page] == 1) return 0;
  if (atomicSub(cache.references + page, 1) == 1) {
    atomicAdd(cache.references + page, 1);
    return 0;
  }
  *entry = ~page;
  return 1;
}

// The threads of the block share the pages that the step will write to.
__device__ int give_up_shared(const CacheState& cache, const List& list, int kept, bool appends) {
  int32_t* row = cache.table + list.list * cache.table_pages;
  int copies = 0, slots = cache.ring_slots, written = min(list.tokens, slots);
  if (threadIdx.x == 0 && appends && kept % kPageSlots != 0)
    copies += give_up(cache, row + cache.ring_pages + kept / kPageSlots);
  int first = (list.length + list.tokens - written) % slots;
  for (int page = threadIdx.x; page < cache.ring_pages; page += blockDim.x) {
    // Slots [first, first + written) modulo `slots` against [begin, end) of this page.
    int begin = page * kPageSlots, end = min(begin + kPageSlots, slots);
    bool touched = (first < end && begin < first + written) || begin < first + written - slots;
    if (touched) copies += give_up(cache, row + page);
  }
  return copies;
}

__device__ int block_sum(int mine, int* shared_sum) {
  if (threadIdx.x == 0) *shared_sum = 0;
  __syncthreads();
  int sum = __reduce_add_sync(~0u, mine);
  if (threadIdx.x % 32 == 0) atomicAdd(shared_sum, sum);
  __syncthreads();
  return *shared_sum;
}

__global__ void __launch_bounds__(kCountThreads, 4) count_kernel(InsertListsParams p) {
  __shared__ int leaving_sum, copies_sum;
  if (faulty(p.faults.fault)) return;
  int number = blockIdx.x;
  int length = p.cache.length[p.slots[number / p.cache.kv_heads % p.batch]];
  List list(p, number, length);
  int kept = p.cache.kept[list.list], mine = 0;
  for (int i = threadIdx.x; i < list.candidates; i += kCountThreads) mine += list.leaves(p, i);
  int leaving = block_sum(mine, &leaving_sum), copies = 0;
  if (p.shared) {
    if (list.tokens > 0) copies = give_up_shared(p.cache, list, kept, leaving > 0);
    copies = block_sum(copies, &copies_sum);
  }
  if (threadIdx.x == 0)
    p.plans[number] = {length, kept, leaving, copies, pages_for(kept + leaving) - pages_for(kept) + copies,
                       0};
}

// The entry of a list's row that place `i` stands for: its ring pages, then the page that has room.
__device__ int32_t* entry_at(const InsertListsParams& p, int number, int i) {
  const CacheState& cache = p.cache;
  int layer = number / cache.kv_heads / p.batch, b = number / cache.kv_heads % p.batch;
  int32_t* row = cache.table + cache.list(layer, p.slots[b], number % cache.kv_heads) * cache.table_pages;
  return row + (i < cache.ring_pages ? i : cache.ring_pages + p.plans[number].kept / kPageSlots);
}

// How many entries of a list `copy` looks at: the last one is only there if something is appended to it.
__device__ int entries(const InsertListsParams& p, const ListPlan& plan) {
  return p.cache.ring_pages + (plan.leaving > 0 && plan.kept % kPageSlots != 0);
}

__device__ void take_back(const InsertListsParams& p, int lists) {
  for (int number = threadIdx.x; number < lists; number += kAdmitThreads) {
    ListPlan plan = p.plans[number];
    if (plan.copies == 0) continue;
    for (int i = 0; i < entries(p, plan); i++) {
      int32_t* entry = entry_at(p, number, i);
      if (*entry >= 0) continue;
      *entry = ~*entry;
      atomicAdd(p.cache.references + *entry, 1);
    }
  }
}

__global__ void __launch_bounds__(kAdmitThreads) admit_kernel(InsertListsParams p, int lists) {
  __shared__ int warp_sums[32];
  if (faulty(p.faults.fault)) return;
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int64_t total = 0;
  for (int begin = 0; begin < lists; begin += kAdmitThreads) {
    int number = begin + threadIdx.x;
    int mine = number < lists ? p.plans[number].needed : 0, sum = mine;
    for (int step = 1; step < 32; step *= 2) {
      int other = __shfl_up_sync(~0u, sum, step);
      if (lane >= step) sum += other;
    }
    __syncthreads();  // the sums of the round before have been read
    if (lane == 31) warp_sums[warp] = sum;
    __syncthreads();
    int64_t before = total + sum - mine;
    for (int i = 0; i < 32; i++) {
      if (i < warp) before += warp_sums[i];
      total += warp_sums[i];
    }
    // Where this does not fit an int, nothing will be taken.
    if (number < lists) p.plans[number].first = static_cast<int32_t>(before);
  }
  int free = *p.cache.free_count;
  __syncthreads();  // all have read the count
  if (total > free) {
    take_back(p, p.shared ? lists : 0);
    if (threadIdx.x == 0) {
      *p.cache.shortage = {total, free};
      raise_fault(p.faults.fault, p.faults.exhausted, 0, p.faults.cache);
    }
  } else if (threadIdx.x == 0) {
    *p.free_top = free;
    *p.cache.free_count = static_cast<int32_t>(free - total);
    *p.cache.least_free = min(*p.cache.least_free, static_cast<int32_t>(free - total));
  }
}

__device__ int32_t take_page(const InsertListsParams& p, const ListPlan& plan, int i) {
  int32_t page = p.cache.free_pages[*p.free_top - 1 - plan.first - i];
  p.cache.references[page] = 1;
  return page;
}

__global__ void __launch_bounds__(kThreads, 4) copy_kernel(InsertListsParams p) {
  if (faulty(p.faults.fault)) return;
  int number = blockIdx.x, copied = 0;
  ListPlan plan = p.plans[number];
  if (plan.copies == 0) return;
  for (int i = 0; i < entries(p, plan); i++) {
    int32_t* entry = entry_at(p, number, i);
    int32_t original = ~*entry;
    if (original < 0) continue;
    int32_t page = p.cache.free_pages[*p.free_top - 1 - plan.first - copied];
    const uint4* from = reinterpret_cast<const uint4*>(page_at(p.cache, original));
    uint4* to = reinterpret_cast<uint4*>(page_at(p.cache, page));
    for (int64_t j = threadIdx.x; j < p.cache.page_bytes / 16; j += kThreads) to[j] = from[j];
    __syncthreads();  // all have read the entry
    if (threadIdx.x == 0) *entry = take_page(p, plan, copied);
    copied++;
  }
}

// The candidates of this round that leave, in order. Returns how many.
__device__ int choose(const InsertListsParams& p, const List& list, int begin, int* chosen, int* warp_sums) {
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, candidate = begin + threadIdx.x;
  bool leaves = candidate < list.candidates && list.leaves(p, candidate);
  unsigned mask = __ballot_sync(~0u, leaves);
  if (lane == 0) warp_sums[warp] = __popc(mask);
  __syncthreads();
  int rank = __popc(mask & ((1u << lane) - 1)), count = 0;
  for (int i = 0; i < kWarps; i++) {
    if (i < warp) rank += warp_sums[i];
    count += warp_sums[i];
  }
  if (leaves) chosen[rank] = candidate;
  __syncthreads();
  return count;
}

__device__ void append(const InsertListsParams& p, const List& list, int kept, int32_t* row) {
  __shared__ int chosen[kThreads], warp_sums[kWarps];
  const CacheState& cache = p.cache;
  PairUnits units(cache);
  for (int begin = 0; begin < list.candidates; begin += kThreads) {
    int count = choose(p, list, begin, chosen, warp_sums);
    for (int i = threadIdx.x; i < count * 2 * units.count; i += kThreads) {
      int unit = i % (2 * units.count), candidate = chosen[i / (2 * units.count)];
      int slot = kept + i / (2 * units.count), token = list.row + candidate - list.from_ring;
      uint8_t* page = page_at(cache, row[cache.ring_pages + slot / kPageSlots]);
      if (candidate < list.from_ring) {
        int source = (list.ring_from + candidate) % cache.ring_slots;
        units.copy(page, slot % kPageSlots, page_at(cache, row[source / kPageSlots]), source % kPageSlots,
                   unit);
      } else {
        units.store(page, slot % kPageSlots, p.pairs.pair(list.layer, token, list.head), unit);
      }
    }
    kept += count;
    __syncthreads();  // `chosen` has been read
  }
}

__device__ void write_ring(const InsertListsParams& p, const List& list, const int32_t* row) {
  const CacheState& cache = p.cache;
  PairUnits units(cache);
  int written = min(list.tokens, cache.ring_slots), first = list.tokens - written;
  for (int64_t i = threadIdx.x; i < int64_t{written} * 2 * units.count; i += kThreads) {
    int unit = static_cast<int>(i % (2 * units.count));
    int token = first + static_cast<int>(i / (2 * units.count));
    int slot = (list.length + token) % cache.ring_slots;
    units.store(page_at(cache, row[slot / kPageSlots]), slot % kPageSlots,
                p.pairs.pair(list.layer, list.row + token, list.head), unit);
  }
  uint32_t* keep = cache.keep + list.list * cache.keep_words;
  for (int i = threadIdx.x; i < written; i += kThreads) {
    int token = first + i, slot = (list.length + token) % cache.ring_slots;
    uint32_t bit = 1u << (slot % 32);
    if (p.pairs.kept(list.layer, list.row + token, list.head, cache.threshold[list.sequence])) {
      atomicOr(keep + slot / 32, bit);
    } else {
      atomicAnd(keep + slot / 32, ~bit);
    }
  }
}

__global__ void __launch_bounds__(kThreads) write_kernel(InsertListsParams p) {
  if (faulty(p.faults.fault)) return;
  const CacheState& cache = p.cache;
  ListPlan plan = p.plans[blockIdx.x];
  List list(p, blockIdx.x, plan.length);
  if (list.tokens == 0) return;
  int32_t* row = cache.table + list.list * cache.table_pages;
  int old_pages = cache.ring_pages + pages_for(plan.kept), fresh = plan.needed - plan.copies;
  for (int i = threadIdx.x; i < fresh; i += kThreads)
    row[old_pages + i] = take_page(p, plan, plan.copies + i);
  __syncthreads();
  append(p, list, plan.kept, row);
  __syncthreads();  // the ring has been read
  write_ring(p, list, row);
  if (threadIdx.x == 0) {
    cache.kept[list.list] = plan.kept + plan.leaving;
    // The other lists know them from their plans.
    if (list.layer == 0 && list.head == 0) {
      int length = list.length + list.tokens;
      cache.length[list.sequence] = length;
      cache.oldest[list.sequence] = max(cache.oldest[list.sequence], length - cache.ring_slots);
    }
  }
}

}  // namespace

cudaError_t insert_lists(const InsertListsParams& params, cudaStream_t stream) {
  int lists = params.cache.layers * params.batch * params.cache.kv_heads;
  dim3 grid(static_cast<unsigned>(lists));
  LaunchShape count = {grid, dim3(kCountThreads)}, admit = {dim3(1), dim3(kAdmitThreads)};
  LaunchShape move = {grid, dim3(kThreads)};
  cudaError_t error = launch(stream, count, count_kernel, params);
  if (error == cudaSuccess) error = launch(stream, admit, admit_kernel, params, lists);
  if (error == cudaSuccess && params.shared) error = launch(stream, move, copy_kernel, params);
  if (error == cudaSuccess) error = launch(stream, move, write_kernel, params);
  return error;
}

}  // namespace cuda
}  // namespace spkv
