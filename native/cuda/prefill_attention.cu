// How the grid maps to the work: a block per (tile of query rows, KV head), the tiles from the last to the
// first, because late ones have the most keys. A tile is kBlockRows rows of [tokens of a sequence][group],
// numbered through, so a group's heads share every key that is loaded.
#include "cuda/prefill_attention.h"

#include <climits>

#include "cuda/common/launch.cuh"
#include "cuda/prefill_pack.cuh"
#include "cuda/prefill_tile.cuh"

namespace spkv {
namespace cuda {
namespace {

constexpr int kBlockWarps = 4;
constexpr int kBlockThreads = kBlockWarps * 32;
constexpr int kBlockRows = kBlockWarps * kWarpRows;
static_assert(kBlockThreads == kBlockRows, "each thread finds out about one row");
constexpr int kStages = 2;
constexpr int kAlignment = 128;  // so that the swizzle spreads rows over all banks

constexpr int shared_bytes(int head_dim) {
  return kBlockRows * head_dim * 2 + kStages * page_bytes(head_dim) + kAlignment;
}

// Rows [first, first + count) of [tokens of a sequence][group].
struct TileRows {
  int first, count, group;
  int first_token, first_head;

  __device__ int query(int row) const { return (first + (row < count ? row : count - 1)) / group; }
  // The row's numbers in a tensor [T][H][D].
  __device__ float* of(const Rows& tensor, int row) const {
    return tensor.row(first_token + (first + row) / group, first_head + (first + row) % group);
  }
};

// The pages that a tile walks: local ones, closed ones, cached ones. Lies in shared memory, since registers
// are what this kernel has least of.
template <int kDim>
struct Walk {
  static constexpr int kPageBytes = page_bytes(kDim);
  const uint8_t *local, *closed, *pool;
  const int32_t* table;
  const LocalPage* info;  // of the first local page
  int64_t stride;         // of local and closed pages
  int first_local, locals, local_pairs;
  int closeds, closed_pairs;
  int cached_pairs;
  int pages;

  int behind;  // kept local pairs up to this one are among the closed ones

  __device__ void begin(const PrefillStep& step, const Chunk& chunk, const TileRows& rows) {
    const CacheState& cache = step.cache;
    stride = int64_t{cache.kv_heads} * kPageBytes;
    local = step.local_pages + chunk.local_page * kPageBytes;
    closed = step.closed_pages + chunk.closed_page * kPageBytes;
    pool = step.kept_pool();
    table = chunk.kept_ids;
    // The first local pair that is in the window of some query; those before are behind all windows.
    behind = chunk.ring + rows.query(0) - cache.window;
    int begin = behind >= 0 ? behind + 1 : 0;
    first_local = begin / kPageSlots;
    locals = (chunk.ring + rows.query(kBlockRows - 1)) / kPageSlots + 1 - first_local;
    local_pairs = chunk.local_pairs();
    info = step.local_info + chunk.local_page + int64_t{first_local} * cache.kv_heads;
    closed_pairs = info->kept_before + __popcll(info->keep & bit_range(0, begin % kPageSlots));
    closeds = (closed_pairs + kPageSlots - 1) / kPageSlots;
    cached_pairs = cache.kept[chunk.list];
    pages = locals + closeds + (cached_pairs + kPageSlots - 1) / kPageSlots;
  }

  __device__ __forceinline__ const uint8_t* address(int i) const {
    if (i >= pages) return nullptr;
    if (i < locals) return local + (first_local + i) * stride;
    if (i < locals + closeds) return closed + (i - locals) * stride;
    return pool + int64_t{__ldg(table + i - locals - closeds)} * kPageBytes;
  }
  // How many pairs are in the page; at least 64 for a full one.
  __device__ __forceinline__ int pairs(int i) const {
    if (i < locals) return local_pairs - (first_local + i) * kPageSlots;
    if (i < locals + closeds) return closed_pairs - (i - locals) * kPageSlots;
    return cached_pairs - (i - locals - closeds) * kPageSlots;
  }
};

// Starts to copy a page; slots behind its pairs become 0, as what lies there could be no number.
template <int kDim>
__device__ __forceinline__ void fetch_page(uint32_t to, const uint8_t* from, int pairs) {
  uint32_t offset = threadIdx.x * kChunkBytes;
  int row = threadIdx.x * kChunkBytes / kRowBytes;
  constexpr int kRowsAtOnce = kBlockThreads * kChunkBytes / kRowBytes;
#pragma unroll
  for (int i = 0; i < page_bytes(kDim) / kRowBytes; i += kRowsAtOnce)
    copy_16(to + offset + i * kRowBytes, from + offset + i * kRowBytes,
            row + i % kPageSlots < pairs ? kChunkBytes : 0);
}

// Brings the tile's queries into shared memory. Rows behind the last become 0.
template <int kDim>
__device__ __forceinline__ void load_queries(const Rows& q, const TileRows& rows, uint8_t* to) {
  constexpr int kRowChunks = kDim / kChunkDims;
#pragma unroll 4
  for (int item = threadIdx.x; item < kBlockRows * kRowChunks; item += kBlockThreads) {
    int row = item / kRowChunks, c = item % kRowChunks;
    uint4 data = make_uint4(0, 0, 0, 0);
    if (row < rows.count) data = load_chunk(rows.of(q, row) + c * kChunkDims, q.vectors);
    *reinterpret_cast<uint4*>(to + c / 8 * (kBlockRows * kRowBytes) + swizzled(row, c % 8)) = data;
  }
}

// Which pairs of page i the thread's row sees. Of a local page: not those after the row, and in the window or
// kept.
template <int kDim>
__device__ __forceinline__ uint64_t visible_pairs(const PrefillStep& step, const Walk<kDim>& walk,
                                                  const LocalPage& info, int own, int i) {
  if (i >= walk.locals) return bit_range(0, walk.pairs(i));
  int first = (walk.first_local + i) * kPageSlots, at = own - first;
  return bit_range(walk.behind + 1 - first, at + 1) &
         (info.keep | bit_range(at - step.cache.window + 1, kPageSlots));
}

// Sets the values of a page that are not finite to 0.
template <int kDim>
__device__ __forceinline__ void clear_non_finite(uint8_t* values) {
  for (int i = threadIdx.x; i < values_offset(kDim) / 4; i += kBlockThreads) {
    uint32_t* pair = reinterpret_cast<uint32_t*>(values) + i;
    *pair &= ~non_finite_halves(*pair);
  }
}

template <int kDim>
__device__ __forceinline__ void store_results(const Rows& out, const TileRows& rows,
                                              const PrefillTile<kDim, kBlockRows>& tile) {
#pragma unroll
  for (int m = 0; m < 2; m++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int row = threadIdx.x / 32 * kWarpRows + tile.row_of(m, half);
      if (row >= rows.count) continue;
      float* to = rows.of(out, row) + threadIdx.x % 4 * 2;
      float share = 1 / tile.sum[m][half];
#pragma unroll
      for (int i = 0; i < kDim / 8; i++) {
        float2 pair = make_float2(tile.out[m][i][2 * half] * share, tile.out[m][i][2 * half + 1] * share);
        if (out.vectors) {
          *reinterpret_cast<float2*>(to + i * 8) = pair;
        } else {
          to[i * 8] = pair.x;
          to[i * 8 + 1] = pair.y;
        }
      }
    }
  }
}

template <int kDim>
__global__ void __launch_bounds__(kBlockThreads, 2) prefill_kernel(const __grid_constant__ PrefillStep step) {
  __shared__ TileRows rows;
  __shared__ Walk<kDim> walk;
  __shared__ uint64_t visible[kBlockRows];
  int head = blockIdx.x % step.cache.kv_heads, index = (gridDim.x - 1 - blockIdx.x) / step.cache.kv_heads;
  auto first_tile = [&](int i) { return int64_t{step.offsets[i]} * step.group / kBlockRows + i; };
  int b = find_sequence(step.batch, index, first_tile);
  Chunk chunk(step, b, head);
  int first = static_cast<int>(index - first_tile(b)) * kBlockRows, count = chunk.tokens * step.group - first;
  if (count <= 0) return;
  if (threadIdx.x == 0) {
    rows = {first, count < kBlockRows ? count : kBlockRows, step.group, chunk.first_token, head * step.group};
    walk.begin(step, chunk, rows);
  }
  __syncthreads();
  int own = chunk.ring + rows.query(threadIdx.x);  // local index of the pair of row threadIdx.x
  uint8_t* shared = dynamic_shared();
  shared += (kAlignment - shared_address(shared) % kAlignment) % kAlignment;
  uint8_t* stages = shared + kBlockRows * kDim * 2;
  auto stage = [&](int i) { return stages + i % kStages * page_bytes(kDim); };
  fetch_page<kDim>(shared_address(stage(0)), walk.address(0), walk.pairs(0));
  end_copy_group();
  const uint8_t* next = walk.address(1);  // known a page ahead, as its id has to be read first
  load_queries<kDim>(step.q, rows, shared);

  int warp_row = threadIdx.x / 32 * kWarpRows;
  uint32_t queries = shared_address(shared) + warp_row * kRowBytes;
  PrefillTile<kDim, kBlockRows> tile;
  tile.begin();
  for (int i = 0; i < walk.pages; i++) {
    wait_for_copy_groups<0>();
    __syncthreads();
    if (i + 1 < walk.pages) {
      fetch_page<kDim>(shared_address(stage(i + 1)), next, walk.pairs(i + 1));
      next = walk.address(i + 2);
    }
    end_copy_group();
    uint32_t keys = shared_address(stage(i)), values = keys + values_offset(kDim);
    if (i >= walk.locals && walk.pairs(i) >= kPageSlots) {
      tile.attend(queries, keys, values, step.scale_log2);
      continue;
    }
    const LocalPage& info = walk.info[i < walk.locals ? i * step.cache.kv_heads : 0];
    visible[threadIdx.x] = visible_pairs(step, walk, info, own, i);
    __syncwarp();
    if (i < walk.locals && info.non_finite) {
      // A weight of 0 does not silence a NaN. So rows that see one get it, and then it goes.
      tile.spread_non_finite(values, visible + warp_row);
      __syncthreads();
      clear_non_finite<kDim>(stage(i) + values_offset(kDim));
      __syncthreads();
    }
    tile.attend_masked(queries, keys, values, step.scale_log2, visible + warp_row);
  }
  tile.finish();
  store_results(step.out, rows, tile);
}

Rows rows_of(const View& view) {
  bool vectors =
      reinterpret_cast<uintptr_t>(view.data) % 16 == 0 && view.stride[0] % 4 == 0 && view.stride[1] % 4 == 0;
  return {view.as<float>(), view.stride[0], view.stride[1], vectors};
}

template <int kDim>
cudaError_t launch_all(const PrefillStep& step, int64_t tokens, cudaStream_t stream) {
  auto grid = [&](int64_t items) { return dim3(static_cast<unsigned>(items * step.cache.kv_heads)); };
  bool fp8 = step.cache.dtype == DType::kFP8;
  cudaError_t error = cudaSuccess;
  if (fp8)
    error =
        launch(stream, {grid(step.batch * kExpandBlocks), dim3(kExpandThreads)}, expand_kernel<kDim>, step);
  if (error == cudaSuccess) error = launch(stream, {grid(step.batch), dim3(kKeepThreads)}, keep_kernel, step);
  LaunchShape pack = {grid(step.local_page_count(tokens)), dim3(kPackThreads)};
  if (error == cudaSuccess)
    error = fp8 ? launch(stream, pack, pack_kernel<kDim, true>, step)
                : launch(stream, pack, pack_kernel<kDim, false>, step);
  if (error != cudaSuccess) return error;
  int64_t tiles = tokens * step.group / kBlockRows + step.batch;
  return launch(stream, {grid(tiles), dim3(kBlockThreads), shared_bytes(kDim)}, prefill_kernel<kDim>, step);
}

}  // namespace

bool prefill_takes(const PrefillAttentionParams& params) {
  const CacheState& cache = params.cache;
  return cache.swizzled && (cache.head_dim == 64 || cache.head_dim == 128) && params.scale > 0 &&
         params.heads % cache.kv_heads == 0 && params.tokens * params.heads < INT_MAX / 2;
}

Status prefill_attention(const PrefillAttentionParams& params, Context& context) {
  if (params.tokens == 0) return Status();
  PrefillStep step = {};
  step.out = rows_of(params.out);
  step.q = rows_of(params.q);
  step.keys = rows_of(params.keys);
  step.values = rows_of(params.values);
  step.utilities = params.utilities.as<float>();
  step.utility_stride = params.utilities.stride[0];
  step.cache = params.cache;
  step.slots = params.slots;
  step.offsets = params.offsets;
  step.batch = params.batch;
  step.layer = params.layer;
  step.group = params.heads / params.cache.kv_heads;
  step.scale_log2 = params.scale * 1.44269504f;

  int64_t page = page_bytes(params.cache.head_dim), lists = int64_t{params.batch} * params.cache.kv_heads;
  int64_t local_pages = step.local_page_count(params.tokens) * params.cache.kv_heads;
  int64_t closed_pages = (params.tokens / kPageSlots + params.batch) * params.cache.kv_heads;
  bool fp8 = params.cache.dtype == DType::kFP8;
  int64_t expanded_pages = fp8 ? params.kept_pages : 0;
  int64_t info_bytes = local_pages * static_cast<int64_t>(sizeof(LocalPage));
  int64_t id_bytes = fp8 ? (expanded_pages + lists) * 4 : 0;
  Status status;
  auto* scratch = static_cast<uint8_t*>(
      context.scratch(Scratch::kAttention,
                      (local_pages + closed_pages + expanded_pages) * page + info_bytes + id_bytes, &status));
  if (!scratch) return status;
  step.local_pages = scratch;
  step.closed_pages = scratch + local_pages * page;
  uint8_t* expanded = step.closed_pages + closed_pages * page;
  step.local_info = reinterpret_cast<LocalPage*>(expanded + expanded_pages * page);
  if (fp8) {
    step.expanded.pages = expanded;
    step.expanded.first = reinterpret_cast<int32_t*>(step.local_info + local_pages);
    step.expanded.ids = step.expanded.first + lists;
  }
  bool wide = params.cache.head_dim == 128;
  return check(wide ? launch_all<128>(step, params.tokens, context.stream())
                    : launch_all<64>(step, params.tokens, context.stream()),
               "attention");
}

}  // namespace cuda
}  // namespace spkv
