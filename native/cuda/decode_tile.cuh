// One warp's share of decode attention: 16 slots at a time against all query heads of a group.
//
// Scores are computed transposed, keys down and queries across, so that the slots fill the 16 rows of the
// matrix instruction and a group of 4 heads wastes only half of its 8 columns:
//
//   S^T [16 slots, 8 queries] = K [16, D] q^T [D, 8]         O^T [D, 8] += V^T [D, 16] P^T [16, 8]
//
// With g = lane / 4 and t = lane % 4 a lane has queries 2t and 2t + 1 in both products: rescaling the output
// needs no exchange. Only P^T has to be turned from a result into an operand, by two 8x8 transpositions.
#pragma once

#include "cuda/decode_form.cuh"

namespace spkv {
namespace cuda {

constexpr uint32_t kAllVisible = 0xffff;

// The running softmax of 8 * kTiles queries over the slots that this warp has seen.
template <typename Form, int kTiles>
struct DecodeState {
  static constexpr int kSteps = Form::kDim / 16;

  uint32_t q[kTiles][kSteps][2];  // the queries as operand b
  float out[kTiles][kSteps][4];   // not yet divided by the sum
  float top[kTiles][2];           // largest score so far, unscaled; of queries 2t and 2t + 1
  float sum[kTiles][2];           // of this lane's rows only

  // Takes the queries from shared memory, where rows are `stride` elements apart and `group` are there.
  __device__ __forceinline__ void begin(const __nv_bfloat16* rows, int stride, int group) {
    int g = threadIdx.x % 32 / 4;
#pragma unroll
    for (int n = 0; n < kTiles; n++) {
#pragma unroll
      for (int i = 0; i < kSteps; i++) {
        q[n][i][0] = q[n][i][1] = 0;
        if (n * 8 + g < group) Form::load_query(rows + (n * 8 + g) * stride + i * 16, q[n][i]);
#pragma unroll
        for (int j = 0; j < 4; j++) out[n][i][j] = 0;
      }
      top[n][0] = top[n][1] = -INFINITY;
      sum[n][0] = sum[n][1] = 0;
    }
  }

  // Takes in 16 slots. tile.load_keys(i, a) gives components [16i, 16i + 16) of the keys as operand a, and
  // tile.load_values(i, a) those of the values, transposed; i ascends. Slots whose bit in `visible` is 0
  // count for nothing.
  template <bool kMasked, typename Tile>
  __device__ __forceinline__ void attend(Tile tile, uint32_t visible, float scale_log2) {
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    float score[kTiles][4];
    SlotScales scales = tile.scales();
    score_tile(&tile, score);
    uint32_t weights[kTiles][2];
    if (Form::kScaled && kMasked) {
      // An infinite scale of a hidden slot times a weight of 0 would be NaN.
      if (!(visible >> g & 1)) scales.value[0] = 0;
      if (!(visible >> (g + 8) & 1)) scales.value[1] = 0;
    }
#pragma unroll
    for (int n = 0; n < kTiles; n++) {
      if (Form::kScaled) {
#pragma unroll
        for (int j = 0; j < 4; j++) score[n][j] *= scales.key[j / 2];
      }
      if (kMasked) {
        if (!(visible >> g & 1)) score[n][0] = score[n][1] = -INFINITY;
        if (!(visible >> (g + 8) & 1)) score[n][2] = score[n][3] = -INFINITY;
      }
#pragma unroll
      for (int c = 0; c < 2; c++) {
        float most = fmaxf(score[n][c], score[n][c + 2]);
#pragma unroll
        for (int step = 4; step < 32; step *= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, step));
        most = fmaxf(most, top[n][c]);
        // While nothing was visible, or all scores are -infinity, there is nothing to subtract.
        float base = kMasked && most == -INFINITY ? 0 : most * scale_log2;
        float shrink = exp2_fast(top[n][c] * scale_log2 - base);
        score[n][c] = exp2_fast(score[n][c] * scale_log2 - base);
        score[n][c + 2] = exp2_fast(score[n][c + 2] * scale_log2 - base);
        sum[n][c] = sum[n][c] * shrink + score[n][c] + score[n][c + 2];
        top[n][c] = most;
#pragma unroll
        for (int i = 0; i < kSteps; i++) {
          out[n][i][c] *= shrink;
          out[n][i][c + 2] *= shrink;
        }
      }
      if (Form::kScaled) {
#pragma unroll
        for (int j = 0; j < 4; j++) score[n][j] *= scales.value[j / 2];
      }
      weights[n][0] = transpose_matrix(pack_bf16(score[n][0], score[n][1]));
      weights[n][1] = transpose_matrix(pack_bf16(score[n][2], score[n][3]));
    }
    // A weight of 0 does not silence a NaN, so the values of hidden slots are cleared, too.
    uint32_t low = pair_mask(visible >> (2 * t)), high = pair_mask(visible >> (2 * t + 8));
#pragma unroll
    for (int i = 0; i < kSteps; i++) {
      uint32_t a[4];
      tile.load_values(i, a);
      if (kMasked) {
        a[0] &= low;
        a[1] &= low;
        a[2] &= high;
        a[3] &= high;
      }
#pragma unroll
      for (int n = 0; n < kTiles; n++) multiply_add(out[n][i], a, weights[n][0], weights[n][1]);
    }
  }

  // Adds up the sums of the lanes that share a query, and undoes the factor of fp8.
  __device__ __forceinline__ void finish() {
#pragma unroll
    for (int n = 0; n < kTiles; n++) {
#pragma unroll
      for (int c = 0; c < 2; c++) {
#pragma unroll
        for (int step = 4; step < 32; step *= 2) sum[n][c] += __shfl_xor_sync(~0u, sum[n][c], step);
      }
      if (Form::kScaled) {
#pragma unroll
        for (int i = 0; i < kSteps; i++) {
#pragma unroll
          for (int j = 0; j < 4; j++) out[n][i][j] *= 0x1p60f;
        }
      }
    }
  }

 private:
  static __device__ __forceinline__ uint32_t pair_mask(uint32_t bits) {
    return (bits & 1 ? 0xffffu : 0u) | (bits & 2 ? 0xffff0000u : 0u);
  }

  // Two accumulators, because a matrix instruction waits for the one before it.
  template <typename Tile>
  __device__ __forceinline__ void score_tile(Tile* tile, float (&score)[kTiles][4]) {
    float half[2][kTiles][4];
#pragma unroll
    for (int n = 0; n < kTiles; n++) {
#pragma unroll
      for (int j = 0; j < 4; j++) half[0][n][j] = half[1][n][j] = 0;
    }
#pragma unroll
    for (int i = 0; i < kSteps; i++) {
      uint32_t a[4];
      tile->load_keys(i, a);
#pragma unroll
      for (int n = 0; n < kTiles; n++) multiply_add(half[i % 2][n], a, q[n][i][0], q[n][i][1]);
    }
#pragma unroll
    for (int n = 0; n < kTiles; n++) {
#pragma unroll
      for (int j = 0; j < 4; j++) score[n][j] = half[0][n][j] + half[1][n][j];
    }
  }
};

}  // namespace cuda
}  // namespace spkv
