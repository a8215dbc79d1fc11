// A block takes a tile of queries of one document and walks, for one query head of the group after the other,
// the keys that they may see:
//
//   kept keys around the diagonal and the edge of the windows   compared pair by pair
//   dropped keys of the windows                                 compared pair by pair
//   kept keys behind all windows                                every pair, with its gate
//
// One warp copies tiles; each warpgroup of the others has 64 rows of queries. While the matrix unit
// multiplies the weights of one tile with its values, a warpgroup makes the weights of the next
// (FlashAttention-3, arXiv 2407.08608). The gates behind all windows are what the products of queries and
// keys are added to.
#include "cuda/gated_walk.cuh"

namespace spkv {
namespace cuda {
namespace {

template <int kDim>
struct ForwardShape {
  static constexpr int kRows = gated_query_rows(kDim);
  static constexpr int kGroups = kRows / 64;
  static constexpr int kThreads = (kGroups + 1) * kGroupThreads;
  static constexpr int kStages = kDim == 128 ? 2 : 4;
  static constexpr int kTileBytes = kKeyTile * kDim * 2;
  static constexpr int kQueryBytes = kRows * kDim * 2;
};

template <int kDim>
struct ForwardMemory {
  using Shape = ForwardShape<kDim>;
  uint8_t queries[Shape::kQueryBytes];
  uint8_t keys[Shape::kStages][Shape::kTileBytes];
  uint8_t values[Shape::kStages][Shape::kTileBytes];
  uint8_t out[Shape::kQueryBytes];
  float gates[Shape::kStages][kKeyTile];
  int32_t positions[Shape::kStages][kKeyTile];
  GatedWork work;
  ForwardWalk walk;
  uint64_t queries_full, queries_empty;
  uint64_t keys_full[Shape::kStages], keys_empty[Shape::kStages];
  uint64_t values_full[Shape::kStages], values_empty[Shape::kStages];
};

template <int kDim>
__device__ __forceinline__ void feed(const GatedForward& p, ForwardMemory<kDim>* memory) {
  using Shape = ForwardShape<kDim>;
  const GatedWork& work = memory->work;
  const ForwardWalk& walk = memory->walk;
  const TensorMap* keys = walk.sorted ? &p.sorted_keys : &p.keys;
  const TensorMap* values = walk.sorted ? &p.sorted_values : &p.values;
  int tile = 0;
  for (int h = 0; h < work.heads; h++) {
    uint32_t full = shared_address(&memory->queries_full);
    barrier_wait(shared_address(&memory->queries_empty), h % 2 ^ 1);
    barrier_arrive_expect(full, Shape::kQueryBytes);
    tensor_copy(shared_address(memory->queries), &p.q, walk.token + walk.first, work.first_head + h, full);
    for (int i = 0; i < walk.tiles(); i++, tile++) {
      int stage = tile % Shape::kStages, parity = tile / Shape::kStages % 2 ^ 1, row;
      int64_t entry;
      walk.begin_of(i, &entry, &row);
      full = shared_address(&memory->keys_full[stage]);
      barrier_wait(shared_address(&memory->keys_empty[stage]), parity);
      barrier_arrive_expect(full, Shape::kTileBytes + kKeyTile * 8);
      tensor_copy(shared_address(memory->keys[stage]), keys, row, work.kv_head, full);
      bulk_copy(shared_address(memory->gates[stage]), p.lists.gate + entry, kKeyTile * 4, full);
      bulk_copy(shared_address(memory->positions[stage]), p.lists.position + entry, kKeyTile * 4, full);
      full = shared_address(&memory->values_full[stage]);
      barrier_wait(shared_address(&memory->values_empty[stage]), parity);
      barrier_arrive_expect(full, Shape::kTileBytes);
      tensor_copy(shared_address(memory->values[stage]), values, row, work.kv_head, full);
    }
  }
}

// One warpgroup's rows of queries: their running softmax.
template <int kDim>
struct ForwardRows {
  using Shape = ForwardShape<kDim>;

  const GatedForward& p;
  ForwardMemory<kDim>* memory;
  uint32_t queries;
  int query;     // of the thread's first row; the second is 8 on
  int tile = 0;  // of keys, over all heads
  float score_log2;
  float score[64], out[kDim / 2];
  uint32_t weights[8][4];
  float top[2], sum[2], shrink[2];

  __device__ __forceinline__ ForwardRows(const GatedForward& params, int group, ForwardMemory<kDim>* shared)
      : p(params), memory(shared) {
    queries = shared_address(memory->queries) + group * 64 * kRowBytes;
    query = memory->walk.first + group * 64 + row_of(0);
    score_log2 = p.scale * kLog2E;
  }

  static __device__ __forceinline__ int stage_of(int tile) { return tile % Shape::kStages; }
  static __device__ __forceinline__ int parity_of(int tile) { return tile / Shape::kStages % 2; }

  // Starts score = queries * keys of the tile, plus gates where nothing is compared.
  template <bool kCompared>
  __device__ __forceinline__ void begin_scores() {
    int stage = stage_of(tile);
    barrier_wait(shared_address(&memory->keys_full[stage]), parity_of(tile));
    if (!kCompared) {
#pragma unroll
      for (int j = 0; j < 16; j++) {
        float2 gate = *reinterpret_cast<const float2*>(&memory->gates[stage][8 * j + threadIdx.x % 4 * 2]);
        score[4 * j] = score[4 * j + 2] = gate.x;
        score[4 * j + 1] = score[4 * j + 3] = gate.y;
      }
    }
    group_begin();
    multiply_rows<kDim, !kCompared>(score, queries, Shape::kRows, shared_address(memory->keys[stage]),
                                    kKeyTile);
    group_end();
  }

  // Starts out += weights * values of the tile before.
  __device__ __forceinline__ void begin_values(int which, bool add) {
    int stage = stage_of(which);
    barrier_wait(shared_address(&memory->values_full[stage]), parity_of(which));
    group_begin();
    add_weighted_rows(out, weights, shared_address(memory->values[stage]), add);
    group_end();
  }

  __device__ __forceinline__ void end_values() {
    hold(out);
    group_wait<0>();
    hold(out);
    release(memory->values_empty[stage_of(tile - 1)]);
  }

  __device__ __forceinline__ void rescale() {
#pragma unroll
    for (int i = 0; i < kDim / 2; i++) out[i] *= shrink[i / 2 % 2];
  }

  __device__ __forceinline__ void weigh_compared(bool last) {
    begin_scores<true>();
    hold(score);
    group_wait<0>();
    hold(score);
    if (last) release(memory->queries_empty);
    compare();
    release_own(memory->keys_empty[stage_of(tile)]);
    weigh<true>();
  }

  __device__ __forceinline__ void compare() {
    int stage = stage_of(tile);
#pragma unroll
    for (int j = 0; j < 16; j++) {
      int column = 8 * j + threadIdx.x % 4 * 2;
      float2 gate = *reinterpret_cast<const float2*>(&memory->gates[stage][column]);
      int2 position = *reinterpret_cast<const int2*>(&memory->positions[stage][column]);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        int age = query + i / 2 * 8 - (i % 2 ? position.y : position.x);
        float gated = score[4 * j + i] + (age >= p.window ? i % 2 ? gate.y : gate.x : 0.0f);
        score[4 * j + i] = age >= 0 ? gated : -INFINITY;
      }
    }
  }

  // Scores become weights, in f32.
  template <bool kCompared>
  __device__ __forceinline__ void weigh() {
#pragma unroll
    for (int r = 0; r < 2; r++) {
      float most = fmaxf(score[2 * r], score[2 * r + 1]);
#pragma unroll
      for (int j = 1; j < 16; j++) most = fmaxf(most, fmaxf(score[4 * j + 2 * r], score[4 * j + 2 * r + 1]));
      most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
      most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
      most = fmaxf(most, top[r]);
      // While nothing was visible there is nothing to subtract.
      float base = (kCompared && most == -INFINITY ? 0 : most) * score_log2;
      shrink[r] = exp2_fast(top[r] * score_log2 - base);
      top[r] = most;
      float total = 0;
#pragma unroll
      for (int j = 0; j < 16; j++) {
#pragma unroll
        for (int i = 2 * r; i < 2 * r + 2; i++) {
          score[4 * j + i] = exp2_fast(score[4 * j + i] * score_log2 - base);
          total += score[4 * j + i];
        }
      }
      sum[r] = sum[r] * shrink[r] + total;
    }
  }

  __device__ __forceinline__ void pack_weights() {
#pragma unroll
    for (int k = 0; k < 8; k++) {
#pragma unroll
      for (int i = 0; i < 4; i++) weights[k][i] = pack_bf16(score[8 * k + 2 * i], score[8 * k + 2 * i + 1]);
    }
  }

  __device__ __forceinline__ void first_tile(bool last) {
    top[0] = top[1] = -INFINITY;
    sum[0] = sum[1] = 0;
    weigh_compared(last);
    pack_weights();
    tile++;
  }

  // There are few of these, so they do not overlap: that takes more registers than there are.
  __device__ __forceinline__ void compared_tile(bool add, bool last) {
    begin_values(tile - 1, add);
    end_values();
    weigh_compared(last);
    rescale();
    pack_weights();
    tile++;
  }

  __device__ __forceinline__ void far_tile(bool add, bool last) {
    begin_scores<false>();
    begin_values(tile - 1, add);
    hold(score);
    group_wait<1>();
    hold(score);
    if (last) release(memory->queries_empty);
    release_own(memory->keys_empty[stage_of(tile)]);
    weigh<false>();
    end_values();
    rescale();
    pack_weights();
    tile++;
  }

  __device__ __forceinline__ void finish(bool add) {
    begin_values(tile - 1, add);
    end_values();
#pragma unroll
    for (int r = 0; r < 2; r++) {
      sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
      sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
    }
  }

  __device__ __forceinline__ void store(int head) {
    const ForwardWalk& walk = memory->walk;
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int r = 0; r < 2; r++) {
      int own = query + 8 * r;
      if (p.log_sum_exp && lane % 4 == 0 && own < walk.tokens)
        p.log_sum_exp[(walk.token + own) * p.log_sum_exp_stride + head] = top[r] * p.scale + logf(sum[r]);
      float share = 1 / sum[r];
#pragma unroll
      for (int j = 0; j < kDim / 8; j++) {
        out[4 * j + 2 * r] *= share;
        out[4 * j + 2 * r + 1] *= share;
      }
    }
    // Through shared memory, so that whole lines are written.
    int group = threadIdx.x / kGroupThreads - 1, first = walk.first + group * 64;
    uint8_t* tile_out = memory->out + group * 64 * kRowBytes;
#pragma unroll
    for (int r = 0; r < 2; r++) {
#pragma unroll
      for (int j = 0; j < kDim / 8; j++)
        *reinterpret_cast<uint32_t*>(tile_out + pair_offset(row_of(r), j, Shape::kRows)) =
            pack_bf16(out[4 * j + 2 * r], out[4 * j + 2 * r + 1]);
    }
    __syncwarp();
    constexpr int kChunks = kDim / kChunkDims;
    int warp_row = threadIdx.x % kGroupThreads / 32 * 16;
#pragma unroll
    for (int i = lane; i < 16 * kChunks; i += 32) {
      int row = warp_row + i / kChunks, c = i % kChunks;
      if (first + row >= walk.tokens) continue;
      *reinterpret_cast<uint4*>(p.out.row(walk.token + first + row, head) + c * kChunkDims) =
          *reinterpret_cast<const uint4*>(tile_out + c / 8 * Shape::kRows * kRowBytes + swizzled(row, c % 8));
    }
    __syncwarp();
  }
};

template <int kDim>
__global__ void __launch_bounds__(ForwardShape<kDim>::kThreads, 1)
    forward_kernel(const __grid_constant__ GatedForward p) {
  using Shape = ForwardShape<kDim>;
  auto* memory = reinterpret_cast<ForwardMemory<kDim>*>(aligned_shared());
  if (threadIdx.x == 0) {
    memory->work.find(p.lists, p.grid);
    memory->walk.find(p, memory->work, Shape::kRows);
    constexpr int kWarps = Shape::kGroups * 4;
    barrier_init(shared_address(&memory->queries_full), 1);
    barrier_init(shared_address(&memory->queries_empty), kWarps);
    for (int i = 0; i < Shape::kStages; i++) {
      barrier_init(shared_address(&memory->keys_full[i]), 1);
      barrier_init(shared_address(&memory->keys_empty[i]), kWarps * 32);
      barrier_init(shared_address(&memory->values_full[i]), 1);
      barrier_init(shared_address(&memory->values_empty[i]), kWarps);
    }
    barrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x < kGroupThreads) {
    leave_registers<kDim == 128 ? 40 : 32>();
    if (threadIdx.x == 0) feed<kDim>(p, memory);
  } else {
    take_registers<kDim == 128 ? 232 : 160>();
    ForwardRows<kDim> rows(p, static_cast<int>(threadIdx.x) / kGroupThreads - 1, memory);
    const ForwardWalk& walk = memory->walk;
    for (int h = 0; h < memory->work.heads; h++) {
      barrier_wait(shared_address(&memory->queries_full), h % 2);
      rows.first_tile(walk.tiles() == 1);
      int i = 1;
      for (; i < walk.compared(); i++) rows.compared_tile(i > 1, i == walk.tiles() - 1);
      for (; i < walk.tiles(); i++) rows.far_tile(i > 1, i == walk.tiles() - 1);
      rows.finish(walk.tiles() > 1);
      rows.store(memory->work.first_head + h);
    }
  }
}

}  // namespace

cudaError_t launch_gated_forward(const GatedForward& params, int64_t dim, cudaStream_t stream) {
  return dim == 128 ? launch_gated<ForwardMemory<128>>(stream, ForwardShape<128>::kThreads,
                                                       forward_kernel<128>, params)
                    : launch_gated<ForwardMemory<64>>(stream, ForwardShape<64>::kThreads, forward_kernel<64>,
                                                      params);
}

}  // namespace cuda
}  // namespace spkv
