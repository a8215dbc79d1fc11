// The one hot loop of the CPU backend: a few rows times a streamed panel. Matrix products run it over packed
// weights, attention over pages of keys (transposed) and values.
#pragma once

#include "cpu/simd.h"

SPKV_ISA_BEGIN

// c[r, j] = (accumulate ? c[r, j] : 0) + sum_k a[r, k] * b[k, j]   for r < rows, j < columns, k < depth
//
// Sums run over k in ascending order in one chain of fused multiply-adds per element, whatever `rows` is.
// `columns` is a multiple of kLanes.
//   T = float:    b[k, j] at b[k * ldb + j]
//   T = uint16_t: bf16 in pairs of k: b[k, j] at b[(k / 2) * 2 * ldb + 2 * j + k % 2]; depth is even. One load
//                 gives two vectors, each at the price of a shift or a mask.
template <typename T>
void multiply_panel(int64_t rows, int64_t columns, int64_t depth, const float* a, int64_t lda, const T* b,
                    int64_t ldb, float* c, int64_t ldc, bool accumulate);

SPKV_ISA_END
