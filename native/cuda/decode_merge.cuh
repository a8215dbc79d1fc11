// The end of a fragment: the states of the block's warps become one, and so do the parts of an item that was
// cut. All sums run in a fixed order.
#pragma once

#include "cuda/decode_attention.h"
#include "cuda/decode_tile.cuh"

namespace spkv {
namespace cuda {

constexpr int kComputeWarps = 4;
constexpr int kComputeThreads = kComputeWarps * 32;

template <int dim, int tiles, int stages>
struct DecodeConfig;

// What lies in shared memory behind the stages. Rows are padded so that the lanes of a fragment, which hold
// 4 pairs of queries and 8 components, write to different banks.
template <typename Config>
struct MergeBuffer {
  float out[kComputeWarps][Config::kQueries][Config::kDim + 4];
  float top[kComputeWarps][Config::kQueries];
  float sum[kComputeWarps][Config::kQueries];
  uint64_t full[Config::kStages];
  uint64_t empty[Config::kStages];
  int last;
};

template <int dim, int tiles, int stages>
struct DecodeConfig {
  static constexpr int kDim = dim, kTiles = tiles, kStages = stages;
  static constexpr int kQueries = 8 * tiles, kPanels = panels(dim), kPageBytes = page_bytes(dim);
  static constexpr int kThreads = kComputeThreads + 32;
  using State = DecodeState<dim, tiles>;
  static constexpr int kSharedBytes =
      stages * kPageBytes + static_cast<int>(sizeof(MergeBuffer<DecodeConfig>)) + 1024;
};

// A partial: out [queries][D], then (top, sum) of every query.
__host__ __device__ constexpr int64_t partial_floats(int head_dim, int queries) {
  return int64_t{queries} * (head_dim + 2);
}

// One query's part of the softmax, for 4 components.
struct Part {
  float4 out;
  float top, sum;
};

// Adds `other` with the weight that the common maximum asks for. -infinity stands for nothing.
__device__ __forceinline__ void merge(Part* part, const Part& other, float scale_log2) {
  float top = fmaxf(part->top, other.top);
  float base = top == -INFINITY ? 0 : top * scale_log2;
  float mine = exp2_fast(part->top * scale_log2 - base), theirs = exp2_fast(other.top * scale_log2 - base);
  part->out.x = part->out.x * mine + other.out.x * theirs;
  part->out.y = part->out.y * mine + other.out.y * theirs;
  part->out.z = part->out.z * mine + other.out.z * theirs;
  part->out.w = part->out.w * mine + other.out.w * theirs;
  part->sum = part->sum * mine + other.sum * theirs;
  part->top = top;
}

// Components [4j, 4j + 4) of query head `query` of the item.
__device__ __forceinline__ void write_result(const DecodeAttentionParams& p, int index, int query, int j,
                                             const Part& part, float scale_log2) {
  int group = p.heads / p.cache.kv_heads, dim = p.cache.head_dim;
  int64_t head =
      static_cast<int64_t>(index / p.cache.kv_heads) * p.heads + index % p.cache.kv_heads * group + query;
  float inverse = 1 / part.sum;
  uint2 packed = {pack_bf16(part.out.x * inverse, part.out.y * inverse),
                  pack_bf16(part.out.z * inverse, part.out.w * inverse)};
  *reinterpret_cast<uint2*>(p.out + head * dim + 4 * j) = packed;
  if (j == 0 && p.log_sum) p.log_sum[head] = (part.top * scale_log2 + log2f(part.sum)) * 0.693147181f;
}

template <typename Config>
__device__ __forceinline__ Part read_partial(const DecodeAttentionParams& p, int64_t slot, int query, int j) {
  const float* partial = p.partials + slot * partial_floats(Config::kDim, Config::kQueries);
  float2 ends =
      __ldcg(reinterpret_cast<const float2*>(partial + Config::kQueries * Config::kDim + 2 * query));
  return {__ldcg(reinterpret_cast<const float4*>(partial + query * Config::kDim + 4 * j)), ends.x, ends.y};
}

// The block that unit `unit` belongs to, of n that share P units evenly: see BlockPlan.
__device__ __forceinline__ int owner(int64_t unit, int64_t blocks, int64_t total) {
  return static_cast<int>(((unit + 1) * blocks - 1) / total);
}

// Counts this block's arrival. True in all threads of the last of `parts` blocks, which then sees what the
// others wrote.
template <typename Config>
__device__ __forceinline__ bool arrive_last(int32_t* arrivals, int parts, MergeBuffer<Config>* buffer) {
  __threadfence();
  named_barrier<1, kComputeThreads>();
  if (threadIdx.x == 0) {
    int32_t before = atomicAdd(arrivals, 1);
    buffer->last = before == parts - 1;
    if (buffer->last) *arrivals = 0;  // for the next launch
  }
  named_barrier<1, kComputeThreads>();
  bool last = buffer->last != 0;
  if (last) __threadfence();
  return last;
}

template <typename Config>
__device__ __forceinline__ void share_state(const typename Config::State& state,
                                            MergeBuffer<Config>* buffer) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int n = 0; n < Config::kTiles; n++) {
#pragma unroll
    for (int c = 0; c < 2; c++) {
      int query = n * 8 + 2 * t + c;
#pragma unroll
      for (int i = 0; i < Config::State::kSteps; i++) {
        buffer->out[warp][query][16 * i + g] = state.out[n][i][c];
        buffer->out[warp][query][16 * i + 8 + g] = state.out[n][i][c + 2];
      }
      if (g == 0) {
        buffer->top[warp][query] = state.top[n][c];
        buffer->sum[warp][query] = state.sum[n][c];
      }
    }
  }
}

// Called by the compute threads with their states at the end of a fragment.
template <typename Config>
__device__ void merge_fragment(const DecodeAttentionParams& p, const BlockPlan& block, const ItemPlan& item,
                               int index, const typename Config::State& state, MergeBuffer<Config>* buffer,
                               float scale_log2) {
  constexpr int kQuads = Config::kDim / 4;
  int count = p.heads / p.cache.kv_heads * kQuads;
  bool whole = item.first_unit >= block.begin && item.first_unit + item.units <= block.end;
  int64_t slot = 2 * static_cast<int64_t>(blockIdx.x) + (item.first_unit >= block.begin);
  share_state(state, buffer);
  named_barrier<1, kComputeThreads>();
  for (int i = threadIdx.x; i < count; i += kComputeThreads) {
    int query = i / kQuads, j = i % kQuads;
    Part part = {{0, 0, 0, 0}, -INFINITY, 0};
#pragma unroll
    for (int warp = 0; warp < kComputeWarps; warp++)
      merge(&part,
            {*reinterpret_cast<const float4*>(&buffer->out[warp][query][4 * j]), buffer->top[warp][query],
             buffer->sum[warp][query]},
            scale_log2);
    if (whole) {
      write_result(p, index, query, j, part, scale_log2);
    } else {
      float* partial = p.partials + slot * partial_floats(Config::kDim, Config::kQueries);
      __stcg(reinterpret_cast<float4*>(partial + query * Config::kDim + 4 * j), part.out);
      if (j == 0)
        __stcg(reinterpret_cast<float2*>(partial + Config::kQueries * Config::kDim + 2 * query),
               make_float2(part.top, part.sum));
    }
  }
  if (!whole) {
    int64_t blocks = min(p.plan.blocks, block.total);
    int first = owner(item.first_unit, blocks, block.total);
    int last = owner(item.first_unit + item.units - 1, blocks, block.total);
    if (arrive_last(p.arrivals + index, last - first + 1, buffer)) {
      for (int i = threadIdx.x; i < count; i += kComputeThreads) {
        int query = i / kQuads, j = i % kQuads;
        Part part = read_partial<Config>(p, 2 * first + 1, query, j);
#pragma unroll 4
        for (int c = first + 1; c <= last; c++)
          merge(&part, read_partial<Config>(p, 2 * c, query, j), scale_log2);
        write_result(p, index, query, j, part, scale_log2);
      }
    }
  }
  named_barrier<1, kComputeThreads>();  // the buffer is free again
}

}  // namespace cuda
}  // namespace spkv
