// How the grid maps to the work: a block per SM takes an even share of the weight's rows, which are the
// columns of `out`, in tiles of up to 64. Four warps fetch them, by bulk copies into a ring of stages; four
// multiply:
//
//   stage     [rows of the tile] of 512 k, each row 1024 bytes and 64 unused, so that the 8 rows that a
//   matrix
//             instruction needs at once lie in different banks
//   warp w    takes k in [128 w, 128 (w + 1)) of every stage, its part of x in registers; the warps' sums are
//             added up at the end of a tile
//
// The order of k within a matrix instruction is free as long as both sides have the same: a thread reads 16
// bytes of a row at once, the operands of two instructions.
//
// Packed weights do not change: their fetching begins before the launches ahead have ended.
#include "cuda/few_rows_matmul.h"

#include "cuda/common/launch.cuh"
#include "cuda/common/ptx.cuh"

namespace spkv {
namespace cuda {
namespace {

constexpr int kMostTokens = 16;
constexpr int kComputeWarps = 4, kComputeThreads = kComputeWarps * 32, kFetchWarps = 4;
constexpr int kThreads = kComputeThreads + kFetchWarps * 32;
constexpr int kTileRows = 64, kColumns = kTileRows / 8;  // of the matrix instruction
constexpr int kDepth = 512, kWarpDepth = kDepth / kComputeWarps;
constexpr int kCopyBytes = kDepth * 2, kPitch = kCopyBytes + 64;
constexpr int kQuadDepth = 32,
              kQuads = kWarpDepth / kQuadDepth;  // k that the four lanes of a row read at once
constexpr int kMostStages = 8, kStageMemory = 200 * 1024;
constexpr int kComputeBarrier = 1;

struct FewRowsParams {
  Product product;
  int tile_rows;  // of a tile at most
  int stages;
};

constexpr int stage_bytes(int tile_rows) { return (tile_rows + 7) / 8 * 8 * kPitch; }

// What a block does: its rows of the weight in tiles, and the whole depth of each, a stage at a step.
struct Share {
  int64_t begin, rows;
  int tile_rows, depth_steps, steps;

  __device__ explicit Share(const FewRowsParams& p) : tile_rows(p.tile_rows) {
    const int64_t columns = p.product.columns;
    begin = columns * blockIdx.x / gridDim.x;
    rows = columns * (blockIdx.x + 1) / gridDim.x - begin;
    depth_steps = static_cast<int>(p.product.depth / kDepth);
    steps = static_cast<int>((rows + tile_rows - 1) / tile_rows) * depth_steps;
  }
  __device__ int64_t first_row(int tile) const { return begin + int64_t{tile} * tile_rows; }
  __device__ int rows_of(int tile) const {
    const int64_t left = rows - int64_t{tile} * tile_rows;
    return static_cast<int>(left < tile_rows ? left : tile_rows);
  }
};

struct Ring {
  uint64_t full[kMostStages], empty[kMostStages];
};

// What one thread of a fetching warp does: every kFetchWarps-th row of a stage.
__device__ __forceinline__ void fetch_stage(const FewRowsParams& p, const Share& share, uint8_t* stages,
                                            Ring* ring, int step, int first, uint64_t policy) {
  const Product& product = p.product;
  const int slot = step % p.stages, tile = step / share.depth_steps, rows = share.rows_of(tile);
  const uint32_t barrier = shared_address(&ring->full[slot]);
  const int count = (rows - first + kFetchWarps - 1) / kFetchWarps;
  if (count <= 0) {
    barrier_arrive(barrier);
    return;
  }
  barrier_arrive_expect(barrier, static_cast<uint32_t>(count * kCopyBytes));
  const auto* weight = static_cast<const uint16_t*>(product.weight) +
                       (share.first_row(tile) + first) * product.weight_stride +
                       int64_t{step % share.depth_steps} * kDepth;
  uint32_t to = shared_address(stages + slot * stage_bytes(p.tile_rows)) + first * kPitch;
  for (int i = 0; i < count; i++) {
    bulk_copy(to, weight, kCopyBytes, barrier, policy);
    weight += kFetchWarps * product.weight_stride;
    to += kFetchWarps * kPitch;
  }
}

__device__ __forceinline__ void fetch_stages(const FewRowsParams& p, const Share& share, uint8_t* stages,
                                             Ring* ring) {
  const int first = threadIdx.x / 32 - kComputeWarps;
  const uint64_t policy = evict_first_policy();
  if (!p.product.packed) wait_for_previous_launch();
  for (int step = 0; step < share.steps; step++) {
    if (step >= p.stages)
      barrier_wait(shared_address(&ring->empty[step % p.stages]), (step / p.stages - 1) & 1);
    fetch_stage(p, share, stages, ring, step, first, policy);
  }
}

// The warp's part of x for one stage: this thread has rows g and g + 8 of it, where lane = 4 g + t.
struct Tokens {
  uint4 low[kQuads], high[kQuads];

  __device__ __forceinline__ void load(const Product& product, int step) {
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const auto* from = static_cast<const uint16_t*>(product.x) + g * product.x_stride +
                       int64_t{step} * kDepth + warp * kWarpDepth + 8 * t;
#pragma unroll
    for (int i = 0; i < kQuads; i++) {
      low[i] = high[i] = make_uint4(0, 0, 0, 0);
      if (g < product.rows) low[i] = __ldcg(reinterpret_cast<const uint4*>(from + i * kQuadDepth));
      if (g + 8 < product.rows)
        high[i] = __ldcg(reinterpret_cast<const uint4*>(from + 8 * product.x_stride + i * kQuadDepth));
    }
  }
};

// Adds what the warp's part of a stage gives: sums [16 tokens][rows of the tile] in fragments. Rows behind
// the last of the tile are whatever is there; nothing of them is written.
__device__ __forceinline__ void multiply_stage(const uint8_t* stage, const Tokens& x, int columns,
                                               float (&sums)[kColumns][4]) {
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const uint8_t* weight = stage + g * kPitch + (warp * kWarpDepth + 8 * t) * 2;
#pragma unroll
  for (int i = 0; i < kQuads; i++) {
    const uint32_t first[4] = {x.low[i].x, x.high[i].x, x.low[i].y, x.high[i].y};
    const uint32_t second[4] = {x.low[i].z, x.high[i].z, x.low[i].w, x.high[i].w};
#pragma unroll
    for (int j = 0; j < kColumns; j++) {
      if (j >= columns) break;
      const uint4 w = *reinterpret_cast<const uint4*>(weight + i * kQuadDepth * 2 + j * 8 * kPitch);
      multiply_add(sums[j], first, w.x, w.y);
      multiply_add(sums[j], second, w.z, w.w);
    }
  }
}

// The sums of the warps. 8 floats behind each row spread the rows over the banks.
struct Sums {
  float of[kComputeWarps][kMostTokens][kTileRows + 8];
};

__device__ __forceinline__ void share_sums(const float (&sums)[kColumns][4], Sums* shared) {
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int j = 0; j < kColumns; j++) {
    *reinterpret_cast<float2*>(&shared->of[warp][g][8 * j + 2 * t]) = make_float2(sums[j][0], sums[j][1]);
    *reinterpret_cast<float2*>(&shared->of[warp][g + 8][8 * j + 2 * t]) = make_float2(sums[j][2], sums[j][3]);
  }
}

__device__ __forceinline__ void write_tile(const Product& product, int64_t first, int rows,
                                           const Sums& shared) {
  const int n = threadIdx.x % kTileRows;
  if (n >= rows) return;
  for (int t = threadIdx.x / kTileRows; t < product.rows; t += kComputeThreads / kTileRows) {
    float sum = shared.of[0][t][n];
#pragma unroll
    for (int warp = 1; warp < kComputeWarps; warp++) sum += shared.of[warp][t][n];
    const float* base = static_cast<const float*>(product.base);
    if (base) sum += base[t * product.base_stride + first + n];
    static_cast<float*>(product.out)[t * product.out_stride + first + n] = sum;
  }
}

// What the multiplying warps do. x is loaded a step ahead.
__device__ __forceinline__ void multiply_tiles(const FewRowsParams& p, const Share& share,
                                               const uint8_t* stages, Ring* ring, Sums* shared) {
  Tokens x, next;
  next.load(p.product, 0);
  for (int step = 0; step < share.steps;) {
    const int tile = step / share.depth_steps, rows = share.rows_of(tile);
    float sums[kColumns][4] = {};
    for (int k = 0; k < share.depth_steps; k++, step++) {
      const int slot = step % p.stages;
      x = next;
      next.load(p.product, k + 1 < share.depth_steps ? k + 1 : 0);
      barrier_wait(shared_address(&ring->full[slot]), step / p.stages & 1);
      multiply_stage(stages + slot * stage_bytes(p.tile_rows), x, (rows + 7) / 8, sums);
      __syncwarp();
      if (threadIdx.x % 32 == 0) barrier_arrive(shared_address(&ring->empty[slot]));
    }
    share_sums(sums, shared);
    named_barrier<kComputeBarrier, kComputeThreads>();
    write_tile(p.product, share.first_row(tile), rows, *shared);
    named_barrier<kComputeBarrier, kComputeThreads>();
  }
}

__global__ void __launch_bounds__(kThreads, 1) few_rows_kernel(const __grid_constant__ FewRowsParams p) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  __shared__ Ring ring;
  __shared__ Sums sums;
  uint8_t* stages = dynamic_shared();
  if (threadIdx.x == 0) {
    for (int i = 0; i < p.stages; i++) {
      barrier_init(shared_address(&ring.full[i]), kFetchWarps);
      barrier_init(shared_address(&ring.empty[i]), kComputeWarps);
    }
    barrier_init_fence();
  }
  __syncthreads();
  allow_next_launch();
  const Share share(p);
  if (threadIdx.x >= kComputeThreads) {
    if (threadIdx.x % 32 == 0) fetch_stages(p, share, stages, &ring);
  } else {
    wait_for_previous_launch();
    multiply_tiles(p, share, stages, &ring, &sums);
  }
#endif
}

bool aligned_16(const void* data, int64_t stride) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride % 8 == 0;
}

}  // namespace

bool few_rows_takes(const Product& product, const Context& context) {
  return context.compute_capability() >= 90 && product.dtype == DType::kBF16 &&
         product.out_dtype == DType::kF32 && !product.x_by_depth && !product.weight_by_depth &&
         product.rows <= kMostTokens && product.depth % kDepth == 0 &&
         aligned_16(product.x, product.x_stride) && aligned_16(product.weight, product.weight_stride);
}

cudaError_t multiply_few_rows(const Product& product, const Context& context) {
  const int64_t most = (product.columns + 7) / 8;
  const int64_t blocks = most < context.multiprocessors() ? most : context.multiprocessors();
  const int64_t rows = (product.columns + blocks - 1) / blocks, tiles = (rows + kTileRows - 1) / kTileRows;
  FewRowsParams params = {product, static_cast<int>((rows + tiles - 1) / tiles), kMostStages};
  const int bytes = stage_bytes(params.tile_rows);
  if (params.stages > kStageMemory / bytes) params.stages = kStageMemory / bytes;
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(blocks));
  shape.block = dim3(kThreads);
  shape.shared_bytes = params.stages * bytes;
  shape.early = true;
  return launch(context.stream(), shape, few_rows_kernel, params);
}

}  // namespace cuda
}  // namespace spkv
