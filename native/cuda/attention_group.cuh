// One warpgroup's share of an attention tile on Hopper: 64 query rows against 128 pairs at a time.
//
//   S [64, 128] = Q [64, D] K^T [D, 128]        O [64, D] += P [64, 128] V [128, D]
//
// In shared memory, everything in panels of 128 bytes a row as in page.cuh:
//
//   Q   panels of 64 rows        K   panels of 128 rows        V   two times panels of 64 rows, as two pages
//
// With g = t % 32 / 4, thread t has rows 16 (t / 32) + g and 8 below, and of every 8 columns those at
// 2 (t % 4) and 1 behind. Weights are the first operand of the second product as they come out of the first.
//
// Products run while the warpgroup goes on. So there is a way through a tile that keeps the matrix units
// busy:
//
//   multiply_keys(score), group_end();  add_values(weights), group_end();      of the tile before
//   group_wait<1>(), hold(score);       weigh(score)                           while values are added
//   group_wait<0>(), hold(out);         rescale(), pack_weights(score, weights)
#pragma once

#include "cuda/common/page.cuh"
#include "cuda/common/ptx.cuh"
#include "cuda/common/wgmma.cuh"

namespace spkv {
namespace cuda {

constexpr int kGroupThreads = 128;
constexpr int kGroupRows = 64;
constexpr int kGroupPairs = 128;

template <int kDim>
struct AttentionGroup {
  static constexpr int kQueryBytes = panels(kDim) * kGroupRows * kRowBytes;
  static constexpr int kKeyPanelBytes = kGroupPairs * kRowBytes;
  static constexpr int kKeyBytes = panels(kDim) * kKeyPanelBytes;  // values take as many

  float out[kDim / 2];  // not yet divided by the sum
  float top[2];         // largest score so far times scale_log2; of rows g and g + 8
  float sum[2];         // of this thread's columns only
  float shrink[2];      // what `out` has to be multiplied with for the newest maximum

  static __device__ __forceinline__ int row_of(int half) {
    return threadIdx.x % kGroupThreads / 32 * 16 + half * 8 + threadIdx.x % 32 / 4;
  }

  __device__ __forceinline__ void begin() {
#pragma unroll
    for (int i = 0; i < kDim / 2; i++) out[i] = 0;
    top[0] = top[1] = -INFINITY;
    sum[0] = sum[1] = 0;
  }

  static __device__ __forceinline__ void multiply_keys(float (&score)[kGroupPairs / 2], uint32_t queries,
                                                       uint32_t keys) {
    SharedMatrix a = rows_along_sum(queries), b = rows_along_sum(keys);
#pragma unroll
    for (int k = 0; k < kDim / 16; k++)
      group_multiply_add<false>(score, a + (k / 4 * kGroupRows * kRowBytes + k % 4 * 32),
                                b + (k / 4 * kKeyPanelBytes + k % 4 * 32), k > 0);
  }

  __device__ __forceinline__ void add_values(const uint32_t (&weights)[kGroupPairs / 16][4],
                                             uint32_t values) {
    SharedMatrix b = rows_across_sum(values, kPanelBytes);
#pragma unroll
    for (int k = 0; k < kGroupPairs / 16; k++)
      group_multiply_add<true>(out, weights[k], b + (k / 4 * values_offset(kDim) + k % 4 * 16 * kRowBytes),
                               true);
  }

  // Hides the scores of all pairs but those of which the bit is set: of row half h, pairs 0..63 in
  // visible[h][0] and 64..127 in visible[h][1].
  static __device__ __forceinline__ void mask(float (&score)[kGroupPairs / 2],
                                              const uint64_t (&visible)[2][2]) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
#pragma unroll
      for (int part = 0; part < 4; part++) {
        uint32_t mine =
            static_cast<uint32_t>(visible[half][part / 2] >> (part % 2 * 32)) >> (threadIdx.x % 4 * 2);
#pragma unroll
        for (int i = 0; i < 4; i++) {
#pragma unroll
          for (int j = 0; j < 2; j++)
            if (!(mine >> (8 * i + j) & 1)) score[part * 16 + i * 4 + half * 2 + j] = -INFINITY;
        }
      }
    }
  }

  // Turns scores into weights.
  __device__ __forceinline__ void weigh(float (&score)[kGroupPairs / 2], float scale_log2) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float most[2] = {score[2 * half], score[2 * half + 1]};
#pragma unroll
      for (int i = 1; i < kGroupPairs / 8; i++) {
        most[0] = fmaxf(most[0], score[4 * i + 2 * half]);
        most[1] = fmaxf(most[1], score[4 * i + 2 * half + 1]);
      }
      float all = fmaxf(most[0], most[1]);
      all = fmaxf(all, __shfl_xor_sync(~0u, all, 1));
      all = fmaxf(all, __shfl_xor_sync(~0u, all, 2));
      all = fmaxf(all * scale_log2, top[half]);
      // While nothing was visible there is nothing to subtract.
      float base = all == -INFINITY ? 0 : all;
      shrink[half] = exp2_fast(top[half] - base);
      top[half] = all;
      float total[2] = {0, 0};
#pragma unroll
      for (int i = 0; i < kGroupPairs / 8; i++) {
#pragma unroll
        for (int j = 0; j < 2; j++) {
          float& x = score[4 * i + 2 * half + j];
          x = exp2_fast(x * scale_log2 - base);
          total[j] += x;
        }
      }
      sum[half] = sum[half] * shrink[half] + (total[0] + total[1]);
    }
  }

  __device__ __forceinline__ void rescale() {
#pragma unroll
    for (int i = 0; i < kDim / 2; i++) out[i] *= shrink[i / 2 % 2];
  }

  static __device__ __forceinline__ void pack_weights(const float (&score)[kGroupPairs / 2],
                                                      uint32_t (&weights)[kGroupPairs / 16][4]) {
#pragma unroll
    for (int k = 0; k < kGroupPairs / 16; k++) {
#pragma unroll
      for (int i = 0; i < 4; i++) weights[k][i] = pack_bf16(score[8 * k + 2 * i], score[8 * k + 2 * i + 1]);
    }
  }

  // Adds up the sums of the threads that share a row.
  __device__ __forceinline__ void finish() {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      sum[half] += __shfl_xor_sync(~0u, sum[half], 1);
      sum[half] += __shfl_xor_sync(~0u, sum[half], 2);
    }
  }
};

}  // namespace cuda
}  // namespace spkv
