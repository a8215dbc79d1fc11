#include "cuda/general_attention.h"

#include "cuda/attention_tile.cuh"
#include "cuda/common/page_layout.cuh"

namespace spkv {
namespace cuda {
namespace {

constexpr int kBlocksPerMultiprocessor = 4;
constexpr int kMostSplits = 32;

// The pairs that a sequence's new tokens may see, in this order: the kept pairs of the pages, the ring from
// position T - window on, and the new tokens themselves. A gate is 0 where the pair is kept, else -infinity.
struct CachedPairs {
  struct Params {
    CacheState cache;
    Rows keys, values;
    const float* utilities;  // or null
    int64_t utility_stride;
    const int32_t* slots;
    int layer;
  };

  const Params& p;
  PageLayout layout;
  int64_t list, token;
  int kv_head, base, kept, ring;
  float threshold;

  __device__ __forceinline__ CachedPairs(const Params& params, const QueryTile& tile)
      : p(params), layout(params.cache), token(tile.token), kv_head(tile.kv_head) {
    int sequence = p.slots[tile.sequence];
    list = p.cache.list(p.layer, sequence, kv_head);
    base = p.cache.length[sequence];
    kept = p.cache.kept[list];
    ring = min(base, p.cache.window);
    threshold = p.cache.threshold[sequence];
  }

  __device__ __forceinline__ int count(int new_token) const { return kept + ring + new_token + 1; }

  __device__ __forceinline__ Candidate at(int i) const {
    if (i < kept) return {slot(p.cache.ring_pages + i / kPageSlots, i % kPageSlots), 0, 0};
    Candidate candidate;
    bool keep;
    candidate.position = base - ring + (i - kept);
    if (i < kept + ring) {
      int at = candidate.position % p.cache.ring_slots;
      candidate.place = slot(at / kPageSlots, at % kPageSlots);
      keep = p.cache.keep[list * p.cache.keep_words + at / 32] >> (at % 32) & 1;
    } else {
      candidate.place.row = token + (i - kept - ring);
      keep = !p.utilities || p.utilities[candidate.place.row * p.utility_stride + kv_head] >= threshold;
    }
    candidate.gate = keep ? 0 : -INFINITY;
    return candidate;
  }

  __device__ __forceinline__ float key(const PairPlace& place, int d) const {
    if (place.page < 0) return p.keys.row(place.row, kv_head)[d];
    return layout.read(p.cache.pool + place.page, static_cast<int>(place.row), false, d);
  }
  __device__ __forceinline__ float value(const PairPlace& place, int d) const {
    if (place.page < 0) return p.values.row(place.row, kv_head)[d];
    return layout.read(p.cache.pool + place.page, static_cast<int>(place.row), true, d);
  }

 private:
  __device__ __forceinline__ PairPlace slot(int page, int row) const {
    return {p.cache.table[list * p.cache.table_pages + page] * p.cache.page_bytes, row};
  }
};

// Grid: 4 rows (token, head) a block. Every split of a row has its partial.
__global__ void __launch_bounds__(kTileThreads) merge_splits(TileParams p, int64_t rows) {
  int64_t row = static_cast<int64_t>(blockIdx.x) * kTileWarps + threadIdx.x / 32;
  if (row >= rows) return;
  int size = p.head_dim + 2;
  const float* partials = p.partials + row * p.splits * size;
  float top = -INFINITY, sum = 0;
  for (int i = 0; i < p.splits; i++) top = fmaxf(top, partials[i * size + p.head_dim]);
  for (int i = 0; i < p.splits; i++)
    sum += partials[i * size + p.head_dim + 1] * weight_below(partials[i * size + p.head_dim], top);
  float* out = p.out.row(row / p.heads, row % p.heads);
  for (int d = threadIdx.x % 32; d < p.head_dim; d += 32) {
    float total = 0;
    for (int i = 0; i < p.splits; i++)
      total += partials[i * size + d] * weight_below(partials[i * size + p.head_dim], top);
    out[d] = total / sum;
  }
}

// The step's keys and values as an fp8 cache will hold them. One warp per row, as [2][tokens][KV heads].
struct StoredRows {
  Rows keys, values;
  float* stored;  // [2, T, G, D]
  int kv_heads, head_dim;
};

__global__ void __launch_bounds__(kTileThreads) store_rows(StoredRows p, int64_t rows) {
  int64_t row = static_cast<int64_t>(blockIdx.x) * kTileWarps + threadIdx.x / 32;
  if (row >= 2 * rows) return;
  const Rows& tensor = row < rows ? p.keys : p.values;
  const float* from = tensor.row(row % rows / p.kv_heads, row % rows % p.kv_heads);
  uint32_t largest = 0;
  for (int d = threadIdx.x % 32; d < p.head_dim; d += 32) largest = max(largest, fp8::magnitude(from[d]));
  __syncwarp();
  uint8_t scale = fp8::scale_of(__reduce_max_sync(~0u, largest));
  for (int d = threadIdx.x % 32; d < p.head_dim; d += 32)
    p.stored[row * p.head_dim + d] = fp8::decode(fp8::encode(from[d], scale), scale);
}

// So many that the blocks fill the GPU. It depends on shapes only, so a graph may hold it.
int splits_for(const TileParams& tiles, int64_t tokens, const Context& context) {
  int64_t rows = tokens * (tiles.heads / tiles.kv_heads), busy = rows / TileShape<128>::kTileRows;
  int64_t blocks = (busy > tiles.sequences ? busy : tiles.sequences) * tiles.kv_heads;
  int64_t splits = (int64_t{kBlocksPerMultiprocessor} * context.multiprocessors() + blocks - 1) / blocks;
  return static_cast<int>(splits < kMostSplits ? splits : kMostSplits);
}

}  // namespace

Status general_attention(const AttentionParams& params, const Step& step, const CacheState& cache,
                         Context& context) {
  TileParams tiles;
  tiles.out = Rows(params.out);
  tiles.q = Rows(params.q);
  tiles.offsets = step.device_offsets;
  tiles.sequences = step.batch;
  tiles.heads = static_cast<int>(params.q.shape[1]);
  tiles.kv_heads = cache.kv_heads;
  tiles.head_dim = cache.head_dim;
  tiles.window = cache.window;
  tiles.scale = params.scale;
  tiles.splits = splits_for(tiles, step.tokens, context);
  int64_t rows = step.tokens * tiles.heads, pair_rows = step.tokens * tiles.kv_heads;
  int64_t partials = tiles.splits > 1 ? rows * tiles.splits * (tiles.head_dim + 2) : 0;
  int64_t stored = cache.dtype == DType::kFP8 ? 2 * pair_rows * tiles.head_dim : 0;
  Status status;
  auto* memory = static_cast<float*>(context.scratch(Scratch::kAttention, (partials + stored) * 4, &status));
  if (!memory) return status;
  tiles.partials = memory;
  CachedPairs::Params pairs;
  pairs.cache = cache;
  pairs.keys = Rows(params.keys);
  pairs.values = Rows(params.values);
  if (stored > 0) {
    StoredRows input = {pairs.keys, pairs.values, memory + partials, tiles.kv_heads, tiles.head_dim};
    LaunchShape shape = {dim3(blocks_for(2 * pair_rows, kTileWarps)), dim3(kTileThreads)};
    SPKV_RETURN_IF_ERROR(
        check(launch(context.stream(), shape, store_rows, input, pair_rows), "rounding pairs"));
    pairs.keys.data = input.stored;
    pairs.values.data = input.stored + pair_rows * tiles.head_dim;
    for (Rows* side : {&pairs.keys, &pairs.values}) {
      side->head_stride = tiles.head_dim;
      side->token_stride = int64_t{tiles.kv_heads} * tiles.head_dim;
    }
  }
  pairs.utilities = params.utilities.as<float>();
  pairs.utility_stride = params.utilities.stride[0];
  pairs.slots = step.device_slots;
  pairs.layer = static_cast<int>(params.layer);
  SPKV_RETURN_IF_ERROR(
      check(attend_tiles<CachedPairs>(tiles, step.tokens, pairs, context.stream()), "attention"));
  if (tiles.splits == 1) return Status();
  LaunchShape shape;
  shape.grid = dim3(blocks_for(rows, kTileWarps));
  shape.block = dim3(kTileThreads);
  return check(launch(context.stream(), shape, merge_splits, tiles, rows), "merging attention");
}

}  // namespace cuda
}  // namespace spkv
