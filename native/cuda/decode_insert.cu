// One warp per list. A lane moves one 16-byte chunk of a pair, and the first ones of the key and the value
// their scales: in bf16 with D = 128, lanes 0..15 have the key's 16 chunks and lanes 16..31 the value's; with
// half as many bytes half of the lanes rest.
#include "cuda/decode_insert.h"

#include "cuda/common/launch.cuh"
#include "cuda/common/pairs.cuh"

namespace spkv {
namespace cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kListsPerBlock = kThreads / 32;

// The pages that all layers need, and those of the layers before `layer`. Every warp adds them up for itself:
// so all come to the same decision without waiting for each other.
__device__ void count_needs(const StepPlan& plan, int layers, int layer, int* all, int* before) {
  int mine_all = 0, mine_before = 0;
  for (int i = threadIdx.x % 32; i < layers; i += 32) {
    int need = plan.needs[i];
    mine_all += need;
    mine_before += i < layer ? need : 0;
  }
  *all = __reduce_add_sync(~0u, mine_all);
  *before = __reduce_add_sync(~0u, mine_before);
}

// Chunks of a key, the bytes of a page, and where in it the scale of a slot's key (0) or value (1) is.
template <DType kDType, int kDim>
struct InsertForm {
  static constexpr bool kScaled = kDType == DType::kFP8;
  static constexpr int kNumbers = kScaled ? kFp8ChunkDims : kChunkDims;
  static constexpr int kChunks = kDim / kNumbers;
  static constexpr int kBytes = kScaled ? fp8_page_bytes(kDim) : page_bytes(kDim);

  static __device__ uint8_t* page(const CacheState& cache, int32_t page) {
    return cache.pool + static_cast<int64_t>(page) * kBytes;
  }
  static __device__ int scale(int slot, int half) {
    return fp8_scales_offset(kDim) + half * kPageSlots + slot;
  }
};

template <DType kDType, int kDim>
__global__ void __launch_bounds__(kThreads) insert_kernel(DecodeInsertParams p) {
  using Form = InsertForm<kDType, kDim>;
  const CacheState& cache = p.cache;
  int items = p.plan.batch * cache.kv_heads, lane = threadIdx.x % 32;
  int number = blockIdx.x * kListsPerBlock + threadIdx.x / 32;
  if (number >= items * cache.layers) return;
  int layer = number / items, index = number % items;
  int b = index / cache.kv_heads, head = index % cache.kv_heads;
  ItemPlan item = p.plan.items[static_cast<int64_t>(layer) * items + index];
  int free_top = *p.plan.free_top, needed, before;
  count_needs(p.plan, cache.layers, layer, &needed, &before);
  // Another block may see the fault of this one or not: it stops in either case.
  if (faulty(p.faults.fault)) return;
  if (needed > free_top) {
    if (number == 0 && lane == 0) {
      *cache.shortage = {needed, free_top};
      raise_fault(p.faults.fault, p.faults.exhausted, 0, p.faults.cache);
    }
    return;
  }

  int64_t list = cache.list(layer, item.sequence, head);
  int32_t* row = cache.table + list * cache.table_pages;
  int half = lane / Form::kChunks, chunk = lane % Form::kChunks;  // 0: keys, 1: values
  if (item.leaves) {
    int from = (item.length - cache.window) % cache.ring_slots;
    int place = cache.ring_pages + item.kept / kPageSlots;
    int32_t page = item.rank >= 0 ? cache.free_pages[free_top - 1 - before - item.rank] : row[place];
    if (half < 2) {
      const uint8_t* source = Form::page(cache, row[from / kPageSlots]);
      uint8_t* target = Form::page(cache, page);
      int source_slot = from % kPageSlots, slot = item.kept % kPageSlots;
      *reinterpret_cast<uint4*>(target + chunk_offset(slot, lane)) =
          *reinterpret_cast<const uint4*>(source + chunk_offset(source_slot, lane));
      if (Form::kScaled && chunk == 0)
        target[Form::scale(slot, half)] = source[Form::scale(source_slot, half)];
    }
    if (lane == 0) {
      if (item.rank >= 0) {
        row[place] = page;
        cache.references[page] = 1;
      }
      cache.kept[list] = item.kept + 1;
    }
  }
  // Without slack this is the slot that has just been read, chunk by chunk by the same lanes.
  int slot = item.length % cache.ring_slots;
  if (half < 2) {
    NewPair pair = p.pairs.pair(layer, b, head);
    uint8_t* target = Form::page(cache, row[slot / kPageSlots]);
    uint8_t scale = Form::kScaled ? pair.scales[half] : 0;
    write_chunk<kDType>(target + chunk_offset(slot % kPageSlots, lane),
                        (half == 0 ? pair.key : pair.value) + chunk * Form::kNumbers, pair.aligned, scale);
    if (Form::kScaled && chunk == 0) target[Form::scale(slot % kPageSlots, half)] = scale;
  }
  if (lane == 0) {
    bool keep = p.pairs.kept(layer, b, head, cache.threshold[item.sequence]);
    uint32_t* word = cache.keep + list * cache.keep_words + slot / 32;
    uint32_t bit = 1u << (slot % 32);
    *word = keep ? *word | bit : *word & ~bit;
    // Lengths and the free count are read by `plan` only.
    if (layer == 0 && head == 0) {
      cache.length[item.sequence] = item.length + 1;
      cache.oldest[item.sequence] = max(cache.oldest[item.sequence], item.length + 1 - cache.ring_slots);
    }
    if (number == 0) {
      *cache.free_count = free_top - needed;
      *cache.least_free = min(*cache.least_free, free_top - needed);
    }
  }
}

template <DType kDType>
cudaError_t launch_insert(const DecodeInsertParams& params, cudaStream_t stream) {
  int lists = params.cache.layers * params.plan.batch * params.cache.kv_heads;
  LaunchShape shape = {dim3(blocks_for(lists, kListsPerBlock)), dim3(kThreads)};
  if (params.cache.head_dim == 128) return launch(stream, shape, insert_kernel<kDType, 128>, params);
  if (params.cache.head_dim == 64) return launch(stream, shape, insert_kernel<kDType, 64>, params);
  return cudaErrorInvalidValue;
}

}  // namespace

cudaError_t decode_insert(const DecodeInsertParams& params, cudaStream_t stream) {
  return params.cache.dtype == DType::kFP8 ? launch_insert<DType::kFP8>(params, stream)
                                           : launch_insert<DType::kBF16>(params, stream);
}

}  // namespace cuda
}  // namespace spkv
