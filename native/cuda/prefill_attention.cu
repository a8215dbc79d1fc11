// Prefill attention on GPUs without the matrix instructions of Hopper, and the way to both kernels. A block
// per (tile of kBlockRows query rows, KV head); prefill_walk.cuh says in which order.
#include "cuda/prefill_attention.h"

#include <climits>

#include "cuda/common/launch.cuh"
#include "cuda/prefill_hopper.h"
#include "cuda/prefill_pack.cuh"
#include "cuda/prefill_tile.cuh"
#include "cuda/prefill_walk.cuh"

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
  __shared__ PrefillItem<kDim> tile;
  __shared__ uint64_t visible[kBlockRows];
  __shared__ bool any;
  if (threadIdx.x == 0) any = tile.begin(step, blockIdx.x, gridDim.x, kBlockRows);
  __syncthreads();
  if (!any) return;
  const Walk<kDim>& walk = tile.walk;
  uint8_t* shared = dynamic_shared();
  shared += (kAlignment - shared_address(shared) % kAlignment) % kAlignment;
  uint8_t* stages = shared + kBlockRows * kDim * 2;
  auto stage = [&](int i) { return stages + i % kStages * page_bytes(kDim); };
  fetch_page<kDim>(shared_address(stage(0)), walk.address(step, 0), walk.pairs(0));
  end_copy_group();
  const uint8_t* next = walk.address(step, 1);  // known a page ahead, as its id has to be read first
  load_queries<kDim>(step.q, tile.rows, shared);

  int warp_row = threadIdx.x / 32 * kWarpRows;
  uint32_t queries = shared_address(shared) + warp_row * kRowBytes;
  PrefillTile<kDim, kBlockRows> state;
  state.begin();
  for (int i = 0; i < walk.pages; i++) {
    wait_for_copy_groups<0>();
    __syncthreads();
    if (i + 1 < walk.pages) {
      fetch_page<kDim>(shared_address(stage(i + 1)), next, walk.pairs(i + 1));
      next = walk.address(step, i + 2);
    }
    end_copy_group();
    uint32_t keys = shared_address(stage(i)), values = keys + values_offset(kDim);
    if (i >= walk.locals && walk.pairs(i) >= kPageSlots) {
      state.attend(queries, keys, values, step.scale_log2);
      continue;
    }
    visible[threadIdx.x] = walk.mask_of(step, i).visible(tile.own(threadIdx.x), step.cache.window);
    __syncwarp();
    state.attend_masked(queries, keys, values, step.scale_log2, visible + warp_row);
  }
  state.finish();
#pragma unroll
  for (int m = 0; m < 2; m++) {
#pragma unroll
    for (int half = 0; half < 2; half++)
      walk.find_non_finite(step, tile.own(warp_row + state.row_of(m, half)),
                           [&](int i, int j) { state.out[m][i][2 * half + j] = NAN; });
  }
  store_results(step.out, tile.rows, state);
}

Rows rows_of(const View& view) {
  bool vectors =
      reinterpret_cast<uintptr_t>(view.data) % 16 == 0 && view.stride[0] % 4 == 0 && view.stride[1] % 4 == 0;
  return {view.as<float>(), view.stride[0], view.stride[1], vectors};
}

template <int kDim>
cudaError_t launch_all(const PrefillStep& step, Context& context) {
  cudaStream_t stream = context.stream();
  auto grid = [](int64_t blocks) { return dim3(static_cast<unsigned>(blocks)); };
  int64_t heads = step.cache.kv_heads;
  bool fp8 = step.cache.dtype == DType::kFP8;
  cudaError_t error = cudaSuccess;
  if (fp8)
    error = launch(stream, {grid(step.batch * heads * kExpandBlocks), dim3(kExpandThreads)},
                   expand_kernel<kDim>, step);
  if (error == cudaSuccess)
    error = launch(stream, {grid(step.batch * heads), dim3(kKeepThreads)}, keep_kernel, step);
  LaunchShape pack = {grid(step.local_page_count() * heads), dim3(kPackThreads)};
  if (error == cudaSuccess)
    error = fp8 ? launch(stream, pack, pack_kernel<kDim, true>, step)
                : launch(stream, pack, pack_kernel<kDim, false>, step);
  if (error != cudaSuccess) return error;
  if (context.compute_capability() == 90) return prefill_hopper(step, context.multiprocessors(), stream);
  return launch(stream, {grid(step.item_count(kBlockRows)), dim3(kBlockThreads), shared_bytes(kDim)},
                prefill_kernel<kDim>, step);
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

  step.tokens = static_cast<int>(params.tokens);

  int64_t page = page_bytes(params.cache.head_dim), lists = int64_t{params.batch} * params.cache.kv_heads;
  int64_t local_pages = step.local_page_count() * params.cache.kv_heads;
  int64_t closed_pages = step.closed_page_count() * params.cache.kv_heads;
  int64_t local_bytes = page + params.cache.head_dim * 8 + int64_t{sizeof(LocalPage)};
  bool fp8 = params.cache.dtype == DType::kFP8;
  int64_t expanded_pages = fp8 ? params.kept_pages : 0;
  int64_t id_bytes = fp8 ? (expanded_pages + lists) * 4 : 0;
  Status status;
  auto* scratch = static_cast<uint8_t*>(context.scratch(
      Scratch::kAttention, local_pages * local_bytes + (closed_pages + expanded_pages) * page + 4 + id_bytes,
      &status));
  if (!scratch) return status;
  step.local_pages = scratch;
  step.closed_pages = step.local_pages + local_pages * page;
  uint8_t* expanded = step.closed_pages + closed_pages * page;
  step.non_finite = reinterpret_cast<uint64_t*>(expanded + expanded_pages * page);
  step.local_info = reinterpret_cast<LocalPage*>(step.non_finite + local_pages * params.cache.head_dim);
  step.next_item = reinterpret_cast<int32_t*>(step.local_info + local_pages);
  if (fp8) {
    step.expanded.pages = expanded;
    step.expanded.first = step.next_item + 1;
    step.expanded.ids = step.expanded.first + lists;
  }
  return check(params.cache.head_dim == 128 ? launch_all<128>(step, context) : launch_all<64>(step, context),
               "attention");
}

}  // namespace cuda
}  // namespace spkv
