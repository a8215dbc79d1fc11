// Attention in f32 for every shape: what attention and gated_attention run where nothing faster applies.
//
// A block takes a tile of query rows of one (sequence, KV head), numbered head by head within each token, and
// walks over the candidates, the pairs that its rows may see, 32 at a time. Each is read once for all rows of
// the tile. What a row at position t makes of a candidate follows from the candidate's position and gate:
//
//   seen    position <= t  and  (t - position < window  or  gate is not -infinity)
//   score   scale * q . k  +  (t - position < window ? 0 : gate)
//
//   warp w  has rows [w R, (w + 1) R) of the tile, their running softmaxes in registers
//   lane i  has candidate i in scores and weights, components i, i + 32, ... in the output
//
// A pair that a row does not see has no part in its result, be it NaN. Where there are too few tiles to fill
// the GPU, the candidates of a tile are split over blocks, and `merge_splits` adds the parts up in order.
#pragma once

#include <cuda_runtime.h>

#include "cuda/common/launch.cuh"
#include "cuda/context.h"

namespace spkv {
namespace cuda {

constexpr int kTileWarps = 4;
constexpr int kTileThreads = kTileWarps * 32;
constexpr int kTilePairs = 32;

// Head sizes up to kDim; the components behind the last are 0.
template <int kDim>
struct TileShape {
  static constexpr int kRows = kDim <= 128 ? 8 : 4;  // R
  static constexpr int kTileRows = kTileWarps * kRows;
  static constexpr int kLaneDims = kDim / 32;
};

template <int kDim>
struct alignas(16) TileMemory {
  using Shape = TileShape<kDim>;
  float q[Shape::kTileRows][kDim];   // times the scale
  float keys[kTilePairs][kDim + 4];  // lanes that read 16 bytes of a row each use different banks
  float values[kTilePairs][kDim];
  float weights[kTileWarps][Shape::kRows][kTilePairs];
};

// Rows [token, head, component] of an f32 tensor.
struct Rows {
  float* data = nullptr;
  int64_t token_stride = 0, head_stride = 0;

  Rows() = default;
  explicit Rows(const View& view)
      : data(view.as<float>()), token_stride(view.stride[0]), head_stride(view.stride[1]) {}
  __device__ float* row(int64_t token, int64_t head) const {
    return data + token * token_stride + head * head_stride;
  }
};

struct TileParams {
  Rows out, q;
  const int32_t* offsets = nullptr;  // [sequences + 1], on the device
  int sequences = 0;
  int heads = 0, kv_heads = 0, head_dim = 0;
  int window = 0;
  float scale = 1;
  int splits = 1;
  float* log_sum_exp = nullptr;  // [T, H], or null; not with several splits
  int64_t log_sum_exp_stride = 0;
  float* partials = nullptr;  // [T, H, splits] of head_dim outputs, top and sum; only with several splits
};

// The rows of a block.
struct QueryTile {
  int sequence, kv_head;
  int64_t token;  // of the step: the sequence's first
  int64_t first;  // row, counted from the sequence's first
  int rows;
};

// Where a pair's numbers are: in a slot of a page, given by its byte in the pool, or in row `token` of the
// new tokens, where `page` is -1.
struct PairPlace {
  int64_t page = -1;
  int64_t row = 0;
};

struct Candidate {
  PairPlace place;
  int position = 0;
  float gate = 0;
};

// Tile `index` of R rows, if there is one. Sequence b begins at tile floor(offsets[b] * group / R) + b: that
// leaves room enough for all its rows without knowing the lengths of others, and at most one tile empty.
__device__ __forceinline__ bool find_tile(const TileParams& p, int64_t index, int tile_rows,
                                          QueryTile* tile) {
  int group = p.heads / p.kv_heads, low = 0, high = p.sequences - 1;
  auto first_tile = [&](int b) { return static_cast<int64_t>(p.offsets[b]) * group / tile_rows + b; };
  while (low < high) {
    int middle = (low + high + 1) / 2;
    if (first_tile(middle) <= index) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  tile->sequence = low;
  tile->token = p.offsets[low];
  tile->first = (index - first_tile(low)) * tile_rows;
  int64_t rows = static_cast<int64_t>(p.offsets[low + 1] - p.offsets[low]) * group - tile->first;
  tile->rows = static_cast<int>(rows < tile_rows ? rows : tile_rows);
  return rows > 0;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, step));
  return x;
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  return x;
}

// e^(x - top), and 0 for nothing seen yet.
__device__ __forceinline__ float weight_below(float x, float top) {
  return expf(x - (top == -INFINITY ? 0.0f : top));
}

// The running softmax of a warp's rows.
template <int kDim>
struct RowState {
  static constexpr int kRows = TileShape<kDim>::kRows, kLaneDims = TileShape<kDim>::kLaneDims;

  float top[kRows];             // largest score so far
  float sum[kRows];             // of this lane's weights
  float out[kRows][kLaneDims];  // sums of weight times value
  int position[kRows];

  // Rows [first, first + kRows) of the tile; those behind its last row repeat that one's position.
  __device__ __forceinline__ RowState(const QueryTile& tile, int first, int group, int base) {
#pragma unroll
    for (int r = 0; r < kRows; r++) {
      top[r] = -INFINITY;
      sum[r] = 0;
#pragma unroll
      for (int n = 0; n < kLaneDims; n++) out[r][n] = 0;
      position[r] = base + static_cast<int>((tile.first + min(first + r, tile.rows - 1)) / group);
    }
  }

  // Takes in the candidates in `memory`; `mine` is this lane's, and `there` says whether it counts at all.
  __device__ __forceinline__ void attend(TileMemory<kDim>* memory, const Candidate& mine, bool there, int dim,
                                         int window) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float score[kRows];
    score_rows(memory, dim, score);
    uint32_t seen[kRows], by_all = ~0u;
#pragma unroll
    for (int r = 0; r < kRows; r++) {
      int age = position[r] - mine.position;
      bool near = age < window, visible = there && age >= 0 && (near || mine.gate != -INFINITY);
      float x = visible ? score[r] + (near ? 0.0f : mine.gate) : -INFINITY;
      float most = fmaxf(warp_max(x), top[r]);
      float shrink = weight_below(top[r], most), weight = visible ? weight_below(x, most) : 0.0f;
      top[r] = most;
      sum[r] = sum[r] * shrink + weight;
#pragma unroll
      for (int n = 0; n < kLaneDims; n++) out[r][n] *= shrink;
      memory->weights[warp][r][lane] = weight;
      seen[r] = __ballot_sync(~0u, visible);
      by_all &= seen[r];
    }
    __syncwarp();
    if (by_all == ~0u) {
      add_values<false>(*memory, seen);
    } else {
      add_values<true>(*memory, seen);
    }
  }

 private:
  // Row r with this lane's candidate.
  __device__ __forceinline__ void score_rows(const TileMemory<kDim>* memory, int dim, float (&score)[kRows]) {
    const float* key = memory->keys[threadIdx.x % 32];
    const float(*q)[kDim] = memory->q + threadIdx.x / 32 * kRows;
#pragma unroll
    for (int r = 0; r < kRows; r++) score[r] = 0;
#pragma unroll 2
    for (int d = 0; d < dim; d += 4) {
      float4 k = *reinterpret_cast<const float4*>(key + d);
#pragma unroll
      for (int r = 0; r < kRows; r++) {
        float4 a = *reinterpret_cast<const float4*>(q[r] + d);
        score[r] += a.x * k.x;
        score[r] += a.y * k.y;
        score[r] += a.z * k.z;
        score[r] += a.w * k.w;
      }
    }
  }

  // A weight of 0 does not silence a NaN, so the values that a row does not see are left out.
  template <bool kMasked>
  __device__ __forceinline__ void add_values(const TileMemory<kDim>& memory, const uint32_t (&seen)[kRows]) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll 1
    for (int j = 0; j < kTilePairs; j += 4) {
      float weight[kRows][4];
#pragma unroll
      for (int r = 0; r < kRows; r++)
        *reinterpret_cast<float4*>(weight[r]) = *reinterpret_cast<const float4*>(&memory.weights[warp][r][j]);
#pragma unroll
      for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int n = 0; n < kLaneDims; n++) {
          float value = memory.values[j + i][lane + 32 * n];
#pragma unroll
          for (int r = 0; r < kRows; r++)
            if (!kMasked || (seen[r] >> (j + i) & 1)) out[r][n] += weight[r][i] * value;
        }
      }
    }
  }
};

template <int kDim>
__device__ __forceinline__ void load_queries(const TileParams& p, const QueryTile& tile,
                                             TileMemory<kDim>* memory) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = p.heads / p.kv_heads;
  for (int r = warp; r < TileShape<kDim>::kTileRows; r += kTileWarps) {
    int64_t row = tile.first + r;
    const float* q = p.q.row(tile.token + row / group, tile.kv_head * group + row % group);
    for (int d = lane; d < kDim; d += 32)
      memory->q[r][d] = r < tile.rows && d < p.head_dim ? q[d] * p.scale : 0.0f;
  }
}

// Reads the candidates whose bit is set in `wanted`; each lane knows the place of its own.
template <int kDim, typename Pairs>
__device__ __forceinline__ void load_pairs(const Pairs& pairs, const PairPlace& place, uint32_t wanted,
                                           int dim, TileMemory<kDim>* memory) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll 2
  for (int j = warp; j < kTilePairs; j += kTileWarps) {
    PairPlace from;
    from.page = __shfl_sync(~0u, place.page, j);
    from.row = __shfl_sync(~0u, place.row, j);
    if (!(wanted >> j & 1)) continue;
#pragma unroll
    for (int n = 0; n < TileShape<kDim>::kLaneDims; n++) {
      int d = lane + 32 * n;
      memory->keys[j][d] = d < dim ? pairs.key(from, d) : 0.0f;
      memory->values[j][d] = d < dim ? pairs.value(from, d) : 0.0f;
    }
  }
}

template <int kDim>
__device__ __forceinline__ void write_rows(const TileParams& p, const QueryTile& tile,
                                           const RowState<kDim>& state) {
  using Shape = TileShape<kDim>;
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = p.heads / p.kv_heads;
#pragma unroll
  for (int r = 0; r < Shape::kRows; r++) {
    float sum = warp_sum(state.sum[r]);
    if (warp * Shape::kRows + r >= tile.rows) continue;
    int64_t row = tile.first + warp * Shape::kRows + r;
    int64_t token = tile.token + row / group, head = tile.kv_head * group + row % group;
    float* to = p.out.row(token, head);
    float factor = 1 / sum;
    if (p.log_sum_exp && lane == 0)
      p.log_sum_exp[token * p.log_sum_exp_stride + head] = state.top[r] + logf(sum);
    if (p.splits > 1) {
      to = p.partials + ((token * p.heads + head) * p.splits + blockIdx.z) * (p.head_dim + 2);
      factor = 1;
      if (lane == 0) to[p.head_dim] = state.top[r];
      if (lane == 0) to[p.head_dim + 1] = sum;
    }
#pragma unroll
    for (int n = 0; n < Shape::kLaneDims; n++)
      if (lane + 32 * n < p.head_dim) to[lane + 32 * n] = state.out[r][n] * factor;
  }
}

// Grid: tiles, KV heads, splits. `Pairs` knows the candidates of a tile:
//
//   Pairs(params, tile)     base: the position of the sequence's first new token
//   count(token)            candidates [0, count) are all that the tokens up to this one may see
//   at(i)                   a candidate
//   key(place, d), value    a component
template <int kDim, typename Pairs>
__global__ void __launch_bounds__(kTileThreads, 3)
    tile_kernel(const __grid_constant__ TileParams p, const __grid_constant__ typename Pairs::Params params) {
  using Shape = TileShape<kDim>;
  auto* memory = reinterpret_cast<TileMemory<kDim>*>(dynamic_shared());
  QueryTile tile;
  tile.kv_head = blockIdx.y;
  // Backwards, because a sequence's last tiles have the most to see.
  if (!find_tile(p, gridDim.x - 1 - blockIdx.x, Shape::kTileRows, &tile)) return;
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = p.heads / p.kv_heads;
  Pairs pairs(params, tile);
  RowState<kDim> state(tile, warp * Shape::kRows, group, pairs.base);
  load_queries(p, tile, memory);
  int first = pairs.base + static_cast<int>(tile.first / group);
  int count = pairs.count(static_cast<int>((tile.first + tile.rows - 1) / group));
  int64_t steps = (static_cast<int64_t>(count) + kTilePairs - 1) / kTilePairs;
  int64_t end = steps * (blockIdx.z + 1) / p.splits;
  for (int64_t i = steps * blockIdx.z / p.splits; i < end; i++) {
    int64_t index = i * kTilePairs + lane;
    Candidate mine;
    if (index < count) mine = pairs.at(static_cast<int>(index));
    bool there = index < count && (mine.gate != -INFINITY || first - mine.position < p.window);
    uint32_t wanted = __ballot_sync(~0u, there);
    if (wanted == 0) continue;
    __syncthreads();  // the candidates before these have been used
    load_pairs(pairs, mine.place, wanted, p.head_dim, memory);
    __syncthreads();
    if (warp * Shape::kRows < tile.rows) state.attend(memory, mine, there, p.head_dim, p.window);
  }
  write_rows(p, tile, state);
}

template <int kDim, typename Pairs>
cudaError_t launch_tiles(const TileParams& p, int64_t tokens, const typename Pairs::Params& pairs,
                         cudaStream_t stream) {
  int64_t tiles = tokens * (p.heads / p.kv_heads) / TileShape<kDim>::kTileRows + p.sequences;
  LaunchShape shape;
  shape.grid =
      dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(p.kv_heads), static_cast<unsigned>(p.splits));
  shape.block = dim3(kTileThreads);
  shape.shared_bytes = static_cast<int>(sizeof(TileMemory<kDim>));
  return launch(stream, shape, tile_kernel<kDim, Pairs>, p, pairs);
}

// For all tokens of a step. At least one token and one sequence.
template <typename Pairs>
cudaError_t attend_tiles(const TileParams& p, int64_t tokens, const typename Pairs::Params& pairs,
                         cudaStream_t stream) {
  if (p.head_dim <= 64) return launch_tiles<64, Pairs>(p, tokens, pairs, stream);
  if (p.head_dim <= 128) return launch_tiles<128, Pairs>(p, tokens, pairs, stream);
  if (p.head_dim <= 256) return launch_tiles<256, Pairs>(p, tokens, pairs, stream);
  return cudaErrorInvalidValue;
}

}  // namespace cuda
}  // namespace spkv
