// The end of a fragment: the states of the compute warps become one, and so do the parts of an item that was
// cut. All sums run in a fixed order.
//
//   partials [2 * blocks]     2c:     the fragment of block c whose item began in a block before
//                             2c + 1: the fragment of block c whose item goes on behind it
//
// The block that comes last merges an item's partials, from its first block to its last.
#pragma once

#include "cuda/common/elements.cuh"
#include "cuda/decode_block.cuh"

namespace spkv {
namespace cuda {

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

template <typename T>
__device__ __forceinline__ void store_quad(T* to, const float4& x) {
  const Pack<float, 4> quad = {{x.x, x.y, x.z, x.w}};
  store(to, convert<T>(quad), Elements<4>{reinterpret_cast<uintptr_t>(to) % (4 * sizeof(T)) == 0});
}

// Components [4j, 4j + 4) of query head `query` of the item.
__device__ __forceinline__ void write_result(const DecodeAttentionParams& p, int index, int query, int j,
                                             const Part& part, float scale_log2) {
  int64_t b = index / p.cache.kv_heads;
  int head = index % p.cache.kv_heads * (p.heads / p.cache.kv_heads) + query;
  float inverse = 1 / part.sum;
  float4 result = {part.out.x * inverse, part.out.y * inverse, part.out.z * inverse, part.out.w * inverse};
  int64_t place = b * p.out_stride + head * p.out_head_stride + 4 * j;
  if (p.bf16_out) {
    store_quad(static_cast<uint16_t*>(p.out) + place, result);
  } else {
    store_quad(static_cast<float*>(p.out) + place, result);
  }
  if (j == 0 && p.log_sum)
    p.log_sum[b * p.heads + head] = (part.top * scale_log2 + log2f(part.sum)) * 0.693147181f;
}

template <typename Config>
__device__ __forceinline__ Part read_partial(const DecodeAttentionParams& p, int64_t slot, int query, int j) {
  const float* partial = p.partials + slot * partial_floats(Config::kDim, Config::kQueries);
  float2 ends =
      __ldcg(reinterpret_cast<const float2*>(partial + Config::kQueries * Config::kDim + 2 * query));
  return {__ldcg(reinterpret_cast<const float4*>(partial + query * Config::kDim + 4 * j)), ends.x, ends.y};
}

// The block that a unit belongs to, of n that share P units evenly: see StepPlan.
__device__ __forceinline__ int owner(int64_t unit, int64_t blocks, int64_t total) {
  return static_cast<int>(((unit + 1) * blocks - 1) / total);
}

// Counts this block's arrival. True in all threads of the last of `parts` blocks, which then sees what the
// others wrote.
__device__ __forceinline__ bool arrive_last(int32_t* arrivals, int parts, int* last) {
  named_barrier<kMergeBarrier, kMergeThreads>();
  if (threadIdx.x % kMergeThreads == 0) {
    __threadfence();  // with the barriers, it stands for all threads of these warps
    int32_t before = atomicAdd(arrivals, 1);
    __threadfence();
    *last = before == parts - 1;
    // For the next launch. What orders it behind the additions of the others is that it is one of them.
    if (*last) atomicExch(arrivals, 0);
  }
  named_barrier<kMergeBarrier, kMergeThreads>();
  return *last;
}

// A compute warp hands its state over.
template <typename Config>
__device__ __forceinline__ void share_state(const typename Config::State& state,
                                            MergeBuffer<Config>* buffer) {
  using Form = typename Config::Form;
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int n = 0; n < Config::kTiles; n++) {
#pragma unroll
    for (int c = 0; c < 2; c++) {
      int query = n * 8 + 2 * t + c;
#pragma unroll
      for (int i = 0; i < Config::State::kSteps; i++) {
        buffer->out[warp][query][16 * i + Form::component(0)] = state.out[n][i][c];
        buffer->out[warp][query][16 * i + Form::component(1)] = state.out[n][i][c + 2];
      }
      if (g == 0) {
        buffer->top[warp][query] = state.top[n][c];
        buffer->sum[warp][query] = state.sum[n][c];
      }
    }
  }
}

// Components [4j, 4j + 4) of a query over all compute warps.
template <typename Config>
__device__ __forceinline__ Part merge_warps(const MergeBuffer<Config>& buffer, int query, int j,
                                            float scale_log2) {
  Part part = {{0, 0, 0, 0}, -INFINITY, 0};
#pragma unroll
  for (int warp = 0; warp < Config::kComputeWarps; warp++)
    merge(&part,
          {*reinterpret_cast<const float4*>(&buffer.out[warp][query][4 * j]), buffer.top[warp][query],
           buffer.sum[warp][query]},
          scale_log2);
  return part;
}

template <typename Config>
__device__ __forceinline__ void write_partial(const DecodeAttentionParams& p, int64_t slot, int query, int j,
                                              const Part& part) {
  float* partial = p.partials + slot * partial_floats(Config::kDim, Config::kQueries);
  __stcg(reinterpret_cast<float4*>(partial + query * Config::kDim + 4 * j), part.out);
  if (j == 0)
    __stcg(reinterpret_cast<float2*>(partial + Config::kQueries * Config::kDim + 2 * query),
           make_float2(part.top, part.sum));
}

// Merges the partials of an item, of blocks [first, last].
template <typename Config>
__device__ __forceinline__ void merge_blocks(const DecodeAttentionParams& p, int index, int first, int last,
                                             float scale_log2) {
  constexpr int kQuads = Config::kDim / 4;
  int count = p.heads / p.cache.kv_heads * kQuads;
  for (int i = threadIdx.x % kMergeThreads; i < count; i += kMergeThreads) {
    int query = i / kQuads, j = i % kQuads;
    Part part = read_partial<Config>(p, 2 * first + 1, query, j);
#pragma unroll 8
    for (int c = first + 1; c <= last; c++)
      merge(&part, read_partial<Config>(p, 2 * c, query, j), scale_log2);
    write_result(p, index, query, j, part, scale_log2);
  }
}

// What the merge warps do.
template <typename Config>
__device__ __forceinline__ void merge_items(const DecodeAttentionParams& p, const BlockPlan& block,
                                            BlockMemory<Config>* memory) {
  constexpr int kQuads = Config::kDim / 4;
  int lane = threadIdx.x % 32, count = p.heads / p.cache.kv_heads * kQuads, unit = block.begin;
  int64_t blocks = min(p.plan.blocks, block.total);
  float scale_log2 = p.scale * 1.44269504f;
  RingPosition<kItemSlots> at;
  RingPosition<1> turn;
  for (int index = block.item; unit < block.end; index++) {
    barrier_wait(shared_address(&memory->item_full[at.index]), at.phase);
    ItemPlan item = memory->items[at.index].plan;
    __syncwarp();
    if (lane == 0) barrier_arrive(shared_address(&memory->item_empty[at.index]));
    at.advance();
    unit = item.first_unit + item.units;
    bool whole = item.first_unit >= block.begin && unit <= block.end;
    int64_t slot = 2 * static_cast<int64_t>(blockIdx.x) + (item.first_unit >= block.begin);
    barrier_wait(shared_address(&memory->merge_full), turn.phase);
    turn.advance();
    for (int i = threadIdx.x % kMergeThreads; i < count; i += kMergeThreads) {
      Part sum = merge_warps<Config>(memory->merge, i / kQuads, i % kQuads, scale_log2);
      if (whole) {
        write_result(p, index, i / kQuads, i % kQuads, sum, scale_log2);
      } else {
        write_partial<Config>(p, slot, i / kQuads, i % kQuads, sum);
      }
    }
    barrier_arrive(shared_address(&memory->merge_empty));
    if (whole) continue;
    int first = owner(item.first_unit, blocks, block.total), last = owner(unit - 1, blocks, block.total);
    if (arrive_last(p.arrivals + index, last - first + 1, &memory->last))
      merge_blocks<Config>(p, index, first, last, scale_log2);
  }
}

}  // namespace cuda
}  // namespace spkv
