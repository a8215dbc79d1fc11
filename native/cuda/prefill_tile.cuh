// One warp's share of a tile of prefill attention: 32 query rows against a page of 64 pairs at a time.
//
//   S [32, 64] = Q [32, D] K^T [D, 64]        O [32, D] += P [32, 64] V [64, D]
//
// Both products in matrices of 16 x 8 x 16. With g = lane / 4 and t = lane % 4, a lane has rows g and g + 8
// of each half of the 32, and of every 8 columns those at 2t and 2t + 1. The weights P are the first operand
// of the second product as they come out of the first. Queries stay in shared memory, because the registers
// are full; every fragment of keys and values that is loaded serves both halves.
#pragma once

#include "cuda/common/page.cuh"
#include "cuda/common/ptx.cuh"
#include "cuda/prefill_chunk.cuh"

namespace spkv {
namespace cuda {

constexpr int kWarpRows = 32;

// The running softmax of 32 query rows.
template <int kDim, int kBlockRows>
struct PrefillTile {
  static constexpr int kSteps = kDim / 16;                         // of the sum over D
  static constexpr int kQueryPanelBytes = kBlockRows * kRowBytes;  // panels as in a page, with more rows

  // Which of the warp's rows the lane has as `half` of half m of the tile.
  static __device__ __forceinline__ int row_of(int m, int half) {
    return m * 16 + half * 8 + threadIdx.x % 32 / 4;
  }

  float out[2][kDim / 8][4];  // not yet divided by the sum
  float top[2][2];            // largest score so far times scale_log2; of rows g and g + 8 of each half
  float sum[2][2];            // of this lane's columns only

  __device__ __forceinline__ void begin() {
#pragma unroll
    for (int m = 0; m < 2; m++) {
#pragma unroll
      for (int i = 0; i < kDim / 8; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) out[m][i][j] = 0;
      }
      top[m][0] = top[m][1] = -INFINITY;
      sum[m][0] = sum[m][1] = 0;
    }
  }

  // Takes in a page of which every pair is visible. `queries` is the warp's first row in shared memory.
  __device__ __forceinline__ void attend(uint32_t queries, uint32_t keys, uint32_t values, float scale_log2) {
    float score[2][8][4];
    multiply_keys(queries, keys, score);
    weigh<false>(score, scale_log2);
    add_values(values, score);
  }

  // Takes in a page of which the warp's row r sees the pairs whose bits in visible[r] are 1. In two halves,
  // for want of registers.
  __device__ __forceinline__ void attend_masked(uint32_t queries, uint32_t keys, uint32_t values,
                                                float scale_log2, const uint64_t* visible) {
#pragma unroll 1
    for (int part = 0; part < 2; part++) {
      float score[2][4][4];
      multiply_keys(queries, keys, score);
#pragma unroll
      for (int m = 0; m < 2; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
          uint32_t mine =
              static_cast<uint32_t>(visible[row_of(m, half)] >> (32 * part)) >> (threadIdx.x % 4 * 2);
#pragma unroll
          for (int i = 0; i < 4; i++) {
#pragma unroll
            for (int j = 0; j < 2; j++)
              if (!(mine >> (8 * i + j) & 1)) score[m][i][2 * half + j] = -INFINITY;
          }
        }
      }
      weigh<true>(score, scale_log2);
      add_values(values, score);
      keys += 32 * kRowBytes;
      values += 32 * kRowBytes;
    }
  }

  // Adds up the sums of the lanes that share a row.
  __device__ __forceinline__ void finish() {
#pragma unroll
    for (int m = 0; m < 2; m++) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        sum[m][half] += __shfl_xor_sync(~0u, sum[m][half], 1);
        sum[m][half] += __shfl_xor_sync(~0u, sum[m][half], 2);
      }
    }
  }

 private:
  // Pairs [16k, 16k + 16) of components [16n, 16n + 16) of the values, as operand b of two products.
  static __device__ __forceinline__ void load_values(uint32_t values, int k, int n, uint32_t (&b)[4]) {
    int matrix = threadIdx.x % 32 / 8, row = threadIdx.x % 8;
    uint32_t chunk = (matrix / 2 ^ row) * kChunkBytes;
    load_matrices_transposed(b, values + (row + matrix % 2 * 8) * kRowBytes + k * 16 * kRowBytes +
                                    n / 4 * kPanelBytes + (chunk ^ n % 4 * 2 * kChunkBytes));
  }

  // The scores of the first 8 * kColumns keys.
  template <int kColumns>
  static __device__ __forceinline__ void multiply_keys(uint32_t queries, uint32_t keys,
                                                       float (&score)[2][kColumns][4]) {
    int matrix = threadIdx.x % 32 / 8, row = threadIdx.x % 8;
    uint32_t query_chunk = (matrix / 2 ^ row) * kChunkBytes, key_chunk = (matrix % 2 ^ row) * kChunkBytes;
    queries += (row + matrix % 2 * 8) * kRowBytes;
    keys += (row + matrix / 2 * 8) * kRowBytes;
#pragma unroll
    for (int m = 0; m < 2; m++) {
#pragma unroll
      for (int i = 0; i < kColumns; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) score[m][i][j] = 0;
      }
    }
#pragma unroll
    for (int k = 0; k < kSteps; k++) {
      uint32_t a[2][4];
#pragma unroll
      for (int m = 0; m < 2; m++)
        load_matrices(a[m], queries + m * 16 * kRowBytes + k / 4 * kQueryPanelBytes +
                                (query_chunk ^ k % 4 * 2 * kChunkBytes));
#pragma unroll
      for (int n = 0; n < kColumns / 2; n++) {
        uint32_t b[4];
        load_matrices(
            b, keys + n * 16 * kRowBytes + k / 4 * kPanelBytes + (key_chunk ^ k % 4 * 2 * kChunkBytes));
#pragma unroll
        for (int m = 0; m < 2; m++) {
          multiply_add(score[m][2 * n], a[m], b[0], b[1]);
          multiply_add(score[m][2 * n + 1], a[m], b[2], b[3]);
        }
      }
    }
  }

  // Turns scores into weights, and scales what was there before to the new maximum.
  template <bool kMasked, int kColumns>
  __device__ __forceinline__ void weigh(float (&score)[2][kColumns][4], float scale_log2) {
    float shrink[2][2];
    bool changed = false;
#pragma unroll
    for (int m = 0; m < 2; m++) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float most = fmaxf(score[m][0][2 * half], score[m][0][2 * half + 1]);
#pragma unroll
        for (int i = 1; i < kColumns; i++)
          most = fmaxf(most, fmaxf(score[m][i][2 * half], score[m][i][2 * half + 1]));
        most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
        most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
        most = fmaxf(most * scale_log2, top[m][half]);
        // While nothing was visible there is nothing to subtract.
        float base = kMasked && most == -INFINITY ? 0 : most;
        shrink[m][half] = exp2_fast(top[m][half] - base);
        changed = changed || shrink[m][half] != 1;
        float total = 0;
#pragma unroll
        for (int i = 0; i < kColumns; i++) {
#pragma unroll
          for (int j = 2 * half; j < 2 * half + 2; j++) {
            score[m][i][j] = exp2_fast(score[m][i][j] * scale_log2 - base);
            total += score[m][i][j];
          }
        }
        sum[m][half] = sum[m][half] * shrink[m][half] + total;
        top[m][half] = most;
      }
    }
    // After the first pages the maximum seldom moves.
    if (!__any_sync(~0u, changed)) return;
#pragma unroll
    for (int m = 0; m < 2; m++) {
#pragma unroll
      for (int i = 0; i < kDim / 8; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) out[m][i][j] *= shrink[m][j / 2];
      }
    }
  }

  template <int kColumns>
  __device__ __forceinline__ void add_values(uint32_t values, const float (&weight)[2][kColumns][4]) {
#pragma unroll
    for (int k = 0; k < kColumns / 2; k++) {
      uint32_t a[2][4];
#pragma unroll
      for (int m = 0; m < 2; m++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const float(&from)[4] = weight[m][2 * k + i / 2];
          a[m][i] = pack_bf16(from[i % 2 * 2], from[i % 2 * 2 + 1]);
        }
      }
#pragma unroll
      for (int n = 0; n < kSteps; n++) {
        uint32_t b[4];
        load_values(values, k, n, b);
#pragma unroll
        for (int m = 0; m < 2; m++) {
          multiply_add(out[m][2 * n], a[m], b[0], b[1]);
          multiply_add(out[m][2 * n + 1], a[m], b[2], b[3]);
        }
      }
    }
  }
};

}  // namespace cuda
}  // namespace spkv
