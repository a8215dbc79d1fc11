// A block has a tile of keys and walks, for one query head of the group after the other, the tiles of queries
// that see them, so that the gradients of keys, values and gates stay in registers and are written once.
//
//   score^T    [keys, queries] = K Q^T      begins at -log_sum_exp / scale  p = exp2(scale_log2 score + gate)
//   d_weight^T [keys, queries] = V dO^T     begins at -dO . out             ds = p d_weight
//   dV [keys, D] += p^T dO      dK [keys, D] += ds^T Q      dQ [queries, D] += ds K
//
// Each warpgroup has 64 of the keys: a gate and its gradient are two registers of a thread. Only ds goes
// through shared memory, for dQ: half of which each warpgroup makes, and the copy engine adds to global
// memory.
#include "cuda/gated_walk.cuh"

namespace spkv {
namespace cuda {
namespace {

template <int kDim>
struct BackwardShape {
  static constexpr int kQueries = gated_step_queries(kDim);
  static constexpr int kGroups = 2;
  static constexpr int kThreads = (kGroups + 1) * kGroupThreads;
  static constexpr int kStages = 2;
  static constexpr int kTileBytes = kKeyTile * kDim * 2;
  static constexpr int kQueryBytes = kQueries * kDim * 2;
  static constexpr int kScoreBytes = kKeyTile * kQueries * 2;
  static constexpr int kSums = 64 * 64;  // of dQ, a warpgroup's share
};

template <int kDim>
struct BackwardMemory {
  using Shape = BackwardShape<kDim>;
  uint8_t keys[Shape::kTileBytes], values[Shape::kTileBytes];
  uint8_t queries[Shape::kStages][Shape::kQueryBytes], d_out[Shape::kStages][Shape::kQueryBytes];
  uint8_t d_scores[2][Shape::kScoreBytes];  // panels of 64 queries, a row for each key
  float4 dq[Shape::kGroups][Shape::kSums / 4];
  float log_sums[Shape::kStages][Shape::kQueries], products[Shape::kStages][Shape::kQueries];
  GatedWork work;
  BackwardWalk walk;
  uint64_t keys_full;
  uint64_t queries_full[Shape::kStages], queries_empty[Shape::kStages];
  uint64_t d_out_full[Shape::kStages], d_out_empty[Shape::kStages];
};

template <int kDim>
__device__ __forceinline__ void feed(const GatedBackward& p, BackwardMemory<kDim>* memory) {
  using Shape = BackwardShape<kDim>;
  const GatedWork& work = memory->work;
  const BackwardWalk& walk = memory->walk;
  uint32_t full = shared_address(&memory->keys_full);
  barrier_arrive_expect(full, 2 * Shape::kTileBytes);
  tensor_copy(shared_address(memory->keys), walk.sorted ? &p.sorted_keys : &p.keys, walk.row, work.kv_head,
              full);
  tensor_copy(shared_address(memory->values), walk.sorted ? &p.sorted_values : &p.values, walk.row,
              work.kv_head, full);
  int step = 0;
  // Backwards: blocks with other keys of the document begin with the same queries, which are in the cache
  // then.
  for (int h = work.first_head; h < work.first_head + work.heads; h++) {
    int64_t row = h * p.query_rows + walk.query_row;
    for (int i = walk.end - 1; i >= walk.begin; i--, step++) {
      int stage = step % Shape::kStages, parity = step / Shape::kStages % 2 ^ 1, query = i * Shape::kQueries;
      full = shared_address(&memory->queries_full[stage]);
      barrier_wait(shared_address(&memory->queries_empty[stage]), parity);
      barrier_arrive_expect(full, Shape::kQueryBytes + Shape::kQueries * 4);
      tensor_copy(shared_address(memory->queries[stage]), &p.q, walk.token + query, h, full);
      bulk_copy(shared_address(memory->log_sums[stage]), p.log_sums + row + query, Shape::kQueries * 4, full);
      full = shared_address(&memory->d_out_full[stage]);
      barrier_wait(shared_address(&memory->d_out_empty[stage]), parity);
      barrier_arrive_expect(full, Shape::kQueryBytes + Shape::kQueries * 4);
      tensor_copy(shared_address(memory->d_out[stage]), &p.d_out, walk.token + query, h, full);
      bulk_copy(shared_address(memory->products[stage]), p.products + row + query, Shape::kQueries * 4, full);
    }
  }
}

// One warpgroup's rows of keys.
template <int kDim>
struct BackwardRows {
  using Shape = BackwardShape<kDim>;
  static constexpr int kScores = Shape::kQueries / 2;  // a thread's
  static constexpr int kSteps = Shape::kQueries / 16;

  const GatedBackward& p;
  BackwardMemory<kDim>* memory;
  int group, step = 0;
  float score_log2;
  float dk[kDim / 2], dv[kDim / 2];
  float gate[2], d_gate[2];
  int position[2];

  __device__ __forceinline__ BackwardRows(const GatedBackward& params, int group_index,
                                          BackwardMemory<kDim>* shared)
      : p(params), memory(shared), group(group_index), score_log2(params.scale * kLog2E) {
#pragma unroll
    for (int i = 0; i < kDim / 2; i++) dk[i] = dv[i] = 0;
#pragma unroll
    for (int r = 0; r < 2; r++) {
      int64_t at = memory->walk.entry + group * 64 + row_of(r);
      bool there = group * 64 + row_of(r) < memory->walk.count;
      position[r] = there ? p.lists.position[at] : kNowhere;
      gate[r] = there ? p.lists.gate[at] : -INFINITY;
      d_gate[r] = 0;
    }
  }

  static __device__ __forceinline__ bool leads() { return threadIdx.x % kGroupThreads == 0; }

  // What a column begins with.
  static __device__ __forceinline__ void begin_columns(float (&d)[kScores], const float* from) {
#pragma unroll
    for (int j = 0; j < kScores / 4; j++) {
      float2 pair = *reinterpret_cast<const float2*>(from + 8 * j + threadIdx.x % 4 * 2);
      d[4 * j] = d[4 * j + 2] = pair.x;
      d[4 * j + 1] = d[4 * j + 3] = pair.y;
    }
  }

  template <bool kCompared>
  __device__ __forceinline__ void weigh(float (&score)[kScores], int query) {
#pragma unroll
    for (int i = 0; i < kScores; i++) {
      int r = i / 2 % 2, age = query + i / 4 * 8 + i % 2 - position[r];
      float x = score[i] * score_log2 + (!kCompared || age >= p.window ? gate[r] : 0.0f);
      score[i] = exp2_fast(kCompared && age < 0 ? -INFINITY : x);
    }
  }

  // From the weights as they were rounded: two numbers of each take half the registers.
  static __device__ __forceinline__ void differentiate(const uint32_t (&weights)[kSteps][4],
                                                       const float (&d_weight)[kScores],
                                                       uint32_t (&d_score)[kSteps][4]) {
#pragma unroll
    for (int k = 0; k < kSteps; k++) {
#pragma unroll
      for (int i = 0; i < 4; i++)
        d_score[k][i] = pack_bf16(d_weight[8 * k + 2 * i] * low_half(weights[k][i]),
                                  d_weight[8 * k + 2 * i + 1] * high_half(weights[k][i]));
    }
  }

  // Adds what belongs to the gates.
  template <bool kCompared>
  __device__ __forceinline__ void add_d_gates(const uint32_t (&d_score)[kSteps][4], int query) {
    int near[2] = {position[0] + p.window - query, position[1] + p.window - query};
#pragma unroll
    for (int k = 0; k < kSteps; k++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        int r = i % 2, column = (2 * k + i / 2) * 8;
        float low = low_half(d_score[k][i]), high = high_half(d_score[k][i]);
        if (kCompared && column < near[r]) low = 0;
        if (kCompared && column + 1 < near[r]) high = 0;
        d_gate[r] += low + high;
      }
    }
  }

  static __device__ __forceinline__ float low_half(uint32_t pair) { return __uint_as_float(pair << 16); }
  static __device__ __forceinline__ float high_half(uint32_t pair) {
    return __uint_as_float(pair & 0xffff0000);
  }

  static __device__ __forceinline__ void pack(const float (&from)[kScores], uint32_t (&to)[kSteps][4]) {
#pragma unroll
    for (int k = 0; k < kSteps; k++) {
#pragma unroll
      for (int i = 0; i < 4; i++) to[k][i] = pack_bf16(from[8 * k + 2 * i], from[8 * k + 2 * i + 1]);
    }
  }

  __device__ __forceinline__ void store_scores(const uint32_t (&d_score)[kSteps][4], uint8_t* to) {
    int row = group * 64 + row_of(0);
    asm volatile(
        ""
        : "+r"(row));  // eight addresses are made anew for each tile: there are no registers to keep them
#pragma unroll
    for (int k = 0; k < kSteps; k++) {
#pragma unroll
      for (int i = 0; i < 4; i++)
        *reinterpret_cast<uint32_t*>(to + pair_offset(row + i % 2 * 8, 2 * k + i / 2, kKeyTile)) =
            d_score[k][i];
    }
  }

  __device__ __forceinline__ void begin_d_weights(float (&d_weight)[kScores], uint32_t values,
                                                  uint32_t d_out) {
    group_begin();
    multiply_rows<kDim, true>(d_weight, values + group * 64 * kRowBytes, kKeyTile, d_out, Shape::kQueries);
    group_end();
  }

  // Starts this warpgroup's share of ds K: a half of the columns, or of the queries where there are 128.
  __device__ __forceinline__ void begin_dq(float (&dq)[32], uint32_t d_scores, uint32_t keys) {
    constexpr int kPanel = kKeyTile * kRowBytes;
    (kDim == 128 ? keys : d_scores) += group * kPanel;
#pragma unroll
    for (int k = 0; k < kKeyTile / 16; k++)
      group_multiply_add<true, true>(dq, rows_across_sum(d_scores, kPanel) + k * 16 * kRowBytes,
                                     rows_across_sum(keys, kPanel) + k * 16 * kRowBytes, k > 0);
  }

  __device__ __forceinline__ void group_barrier() {
    if (group == 0) {
      named_barrier<2, kGroupThreads>();
    } else {
      named_barrier<3, kGroupThreads>();
    }
  }

  __device__ __forceinline__ void add_dq(const float (&dq)[32], float* to) {
    float4* mine = memory->dq[group] + threadIdx.x % kGroupThreads;
#pragma unroll
    for (int j = 0; j < 8; j++)
      mine[j * kGroupThreads] = make_float4(dq[4 * j], dq[4 * j + 1], dq[4 * j + 2], dq[4 * j + 3]);
    publish_shared();
    group_barrier();
    if (leads()) bulk_add(to + group * Shape::kSums, shared_address(memory->dq[group]), Shape::kSums * 4);
  }

  // A tile of queries from `first` on; its dQ goes to `dq_to`.
  template <bool kCompared>
  __device__ __forceinline__ void take(int first, float* dq_to) {
    int stage = step % Shape::kStages, parity = step / Shape::kStages % 2;
    int query = first + threadIdx.x % 4 * 2;
    uint32_t queries = shared_address(memory->queries[stage]), d_out = shared_address(memory->d_out[stage]);
    uint8_t* d_scores = memory->d_scores[step % 2];
    float score[kScores], d_weight[kScores], dq[32];
    uint32_t packed[kSteps][4], d_packed[kSteps][4];

    uint32_t keys = shared_address(memory->keys), values = shared_address(memory->values);
    asm volatile("" : "+r"(keys), "+r"(values));  // no registers for operands that stay the same
    barrier_wait(shared_address(&memory->queries_full[stage]), parity);
    barrier_wait(shared_address(&memory->d_out_full[stage]), parity);
    begin_columns(score, memory->log_sums[stage]);
    // What is compared takes registers, so there the two do not overlap.
    if (!kCompared) begin_columns(d_weight, memory->products[stage]);
    hold(score);
    if (!kCompared) hold(d_weight);
    group_begin();
    multiply_rows<kDim, true>(score, keys + group * 64 * kRowBytes, kKeyTile, queries, Shape::kQueries);
    group_end();
    if (!kCompared) begin_d_weights(d_weight, values, d_out);
    hold(score);
    group_wait<kCompared ? 0 : 1>();
    hold(score);
    weigh<kCompared>(score, query);
    pack(score, packed);
    if (kCompared) {
      begin_columns(d_weight, memory->products[stage]);
      hold(d_weight);
      begin_d_weights(d_weight, values, d_out);
    }
    group_begin();
    add_weighted_rows(dv, packed, d_out, true);
    group_end();
    hold(d_weight);
    group_wait<1>();
    hold(d_weight);
    differentiate(packed, d_weight, d_packed);
    store_scores(d_packed, d_scores);
    if (leads()) wait_for_bulk_reads();  // of the step before: then `dq` in shared memory is free
    publish_shared();
    named_barrier<1, Shape::kGroups * kGroupThreads>();
    group_begin();
    begin_dq(dq, shared_address(d_scores), keys);
    group_end();
    group_begin();
    add_weighted_rows(dk, d_packed, queries, true);
    group_end();
    hold(dq);
    group_wait<1>();
    hold(dq);
    release_own(memory->d_out_empty[stage]);
    add_dq(dq, dq_to);
    asm volatile("" : "+r"(query));  // what was compared above has no registers to wait in
    add_d_gates<kCompared>(d_packed, query);
    hold(dk);
    group_wait<0>();
    hold(dk);
    release_own(memory->queries_empty[stage]);
    step++;
  }

  __device__ __forceinline__ void store() {
    int first_token = memory->walk.token, kv_head = memory->work.kv_head;
#pragma unroll
    for (int r = 0; r < 2; r++) {
      d_gate[r] += __shfl_xor_sync(~0u, d_gate[r], 1);
      d_gate[r] += __shfl_xor_sync(~0u, d_gate[r], 2);
      if (position[r] == kNowhere) continue;
      int token = first_token + position[r], column = threadIdx.x % 4 * 2;
      if (p.d_gates && column == 0) p.d_gates[token * p.d_gates_stride + kv_head] = d_gate[r];
      auto* key = reinterpret_cast<uint32_t*>(p.dk.row(token, kv_head) + column);
      auto* value = reinterpret_cast<uint32_t*>(p.dv.row(token, kv_head) + column);
#pragma unroll
      for (int j = 0; j < kDim / 8; j++) {
        int i = 4 * j + 2 * r;
        key[4 * j] = pack_bf16(dk[i] * p.scale, dk[i + 1] * p.scale);
        value[4 * j] = pack_bf16(dv[i], dv[i + 1]);
      }
    }
    if (leads()) wait_for_bulk_reads();
  }
};

template <int kDim>
__global__ void __launch_bounds__(BackwardShape<kDim>::kThreads, 1)
    backward_kernel(const __grid_constant__ GatedBackward p) {
  using Shape = BackwardShape<kDim>;
  auto* memory = reinterpret_cast<BackwardMemory<kDim>*>(aligned_shared());
  if (threadIdx.x == 0) {
    memory->work.find(p.lists, p.grid);
    memory->walk.find(p, memory->work, Shape::kQueries);
    constexpr int kReaders = Shape::kGroups * kGroupThreads;
    barrier_init(shared_address(&memory->keys_full), 1);
    for (int i = 0; i < Shape::kStages; i++) {
      barrier_init(shared_address(&memory->queries_full[i]), 1);
      barrier_init(shared_address(&memory->queries_empty[i]), kReaders);
      barrier_init(shared_address(&memory->d_out_full[i]), 1);
      barrier_init(shared_address(&memory->d_out_empty[i]), kReaders);
    }
    barrier_init_fence();
  }
  __syncthreads();
  if (memory->walk.count <= 0) return;
  if (threadIdx.x < kGroupThreads) {
    leave_registers<24>();
    if (threadIdx.x == 0) feed<kDim>(p, memory);
  } else {
    take_registers<240>();
    BackwardRows<kDim> rows(p, static_cast<int>(threadIdx.x) / kGroupThreads - 1, memory);
    barrier_wait(shared_address(&memory->keys_full), 0);
    const GatedWork& work = memory->work;
    const BackwardWalk& walk = memory->walk;
    for (int h = work.first_head; h < work.first_head + work.heads; h++) {
      float* dq = p.dq_sums + (h * p.query_rows + walk.query_row) * kDim;
      int i = walk.end - 1;
      for (; i >= walk.far; i--) rows.template take<false>(i * Shape::kQueries, dq + i * 2 * Shape::kSums);
      for (; i >= walk.begin; i--) rows.template take<true>(i * Shape::kQueries, dq + i * 2 * Shape::kSums);
    }
    rows.store();
  }
}

}  // namespace

cudaError_t launch_gated_backward(const GatedBackward& params, int64_t dim, cudaStream_t stream) {
  return dim == 128 ? launch_gated<BackwardMemory<128>>(stream, BackwardShape<128>::kThreads,
                                                        backward_kernel<128>, params)
                    : launch_gated<BackwardMemory<64>>(stream, BackwardShape<64>::kThreads,
                                                       backward_kernel<64>, params);
}

}  // namespace cuda
}  // namespace spkv
