// What the kernels of gated attention on Hopper share: how blocks map to work, and products of whole tiles.
//
// Tiles lie in shared memory in panels of 64 components, a row of 128 bytes each (common/page.cuh). A
// warpgroup has 64 rows of a product: with g = lane / 4 and t = lane % 4, a thread has rows 16 * warp + g and
// 8 below it, and of every 8 columns those at 2t and 2t + 1: element 4j + 2r + e of its registers is row r of
// its two, column 8j + 2t + e.
#pragma once

#include "cuda/common/launch.cuh"
#include "cuda/common/tensor_copy.cuh"
#include "cuda/common/wgmma.cuh"
#include "cuda/gated_lists.h"

namespace spkv {
namespace cuda {

constexpr float kLog2E = 1.44269504f;
constexpr int kGroupThreads = 128;

// Rows [token][head] of a tensor in bf16.
struct GatedRows {
  uint16_t* data = nullptr;
  int64_t token_stride = 0, head_stride = 0;

  GatedRows() = default;
  explicit GatedRows(const View& view)
      : data(view.as<uint16_t>()), token_stride(view.stride[0]), head_stride(view.stride[1]) {}
  __device__ __forceinline__ uint16_t* row(int64_t token, int head) const {
    return data + token * token_stride + head * head_stride;
  }
};

// A grid goes through the items once for every few heads, so that what these read fits the L2 cache; the
// items with the most work come first, because the last ones to start must be short.
struct GatedGrid {
  int kv_heads = 0;
  int section = 1;  // KV heads at a time; divides kv_heads
  int group = 1;    // query heads of a KV head
  int parts = 1;    // blocks that share a group; divides it

  unsigned blocks(const KeyLists& lists) const {
    return static_cast<unsigned>(lists.item_count * kv_heads * parts);
  }
};

struct GatedWork {
  GatedItem item;
  int kv_head, first_head, heads;

  __device__ __forceinline__ void find(const KeyLists& lists, const GatedGrid& grid) {
    int units = grid.section * grid.parts, in_section = static_cast<int>(lists.item_count) * units;
    int index = static_cast<int>(blockIdx.x), section = index / in_section, unit = index % units;
    item = lists.items[index % in_section / units];
    kv_head = section * grid.section + unit / grid.parts;
    heads = grid.group / grid.parts;
    first_head = kv_head * grid.group + unit % grid.parts * heads;
  }
};

__device__ __forceinline__ uint8_t* aligned_shared() {
  uint8_t* shared = dynamic_shared();
  return shared + (1024 - shared_address(shared) % 1024) % 1024;
}

// Starts a kernel whose blocks each have a Memory at aligned_shared().
template <typename Memory, typename Params>
cudaError_t launch_gated(cudaStream_t stream, int threads, void (*kernel)(Params), const Params& params) {
  LaunchShape shape;
  shape.grid = dim3(params.grid.blocks(params.lists));
  shape.block = dim3(static_cast<unsigned>(threads));
  shape.shared_bytes = static_cast<int>(sizeof(Memory)) + 1024;
  return launch(stream, shape, kernel, params);
}

// The thread's rows among the 64 of its warpgroup.
__device__ __forceinline__ int row_of(int r) {
  return threadIdx.x % kGroupThreads / 32 * 16 + threadIdx.x % 32 / 4 + 8 * r;
}

// The warp's matrix instructions have read what the barrier guards.
__device__ __forceinline__ void release(const uint64_t& barrier) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) barrier_arrive(shared_address(&barrier));
}

// So has the thread itself: racecheck takes an arrival for that of its thread alone.
__device__ __forceinline__ void release_own(const uint64_t& barrier) {
  barrier_arrive(shared_address(&barrier));
}

// Where element pair (row r of the thread, column 8j + 2t) lies in a tile whose panels have `rows` rows.
__device__ __forceinline__ int pair_offset(int row, int j, int rows) {
  return j / 8 * rows * kRowBytes + swizzled(row, j % 8) + threadIdx.x % 4 * 4;
}

// d = rows of a times rows of b, over `kDim` components; kAdd: to what is in d.
template <int kDim, bool kAdd, int kCount>
__device__ __forceinline__ void multiply_rows(float (&d)[kCount], uint32_t a, int a_rows, uint32_t b,
                                              int b_rows) {
#pragma unroll
  for (int k = 0; k < kDim / 16; k++)
    group_multiply_add<false>(d, rows_along_sum(a) + (k / 4 * a_rows * kRowBytes + k % 4 * 32),
                              rows_along_sum(b) + (k / 4 * b_rows * kRowBytes + k % 4 * 32), kAdd || k > 0);
}

// d (+)= weights times the rows of b, of which there are 16 * kSteps.
template <int kSteps, int kCount>
__device__ __forceinline__ void add_weighted_rows(float (&d)[kCount], const uint32_t (&weights)[kSteps][4],
                                                  uint32_t b, bool add) {
#pragma unroll
  for (int k = 0; k < kSteps; k++)
    group_multiply_add<true>(d, weights[k], rows_across_sum(b, kSteps * 16 * kRowBytes) + k * 16 * kRowBytes,
                             add || k > 0);
}

}  // namespace cuda
}  // namespace spkv
