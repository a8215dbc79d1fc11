// The loop of cpu/microkernel.h for a left side that lies transposed.
#pragma once

#include "cpu/microkernel.h"

SPKV_ISA_BEGIN

template <int kRows, int kVectors>
void add_outer_tile(int64_t depth, const float* a, int64_t lda, const float* b, int64_t ldb, float* c,
                    int64_t ldc, bool accumulate) {
  vf acc[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; r++)
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; v++) acc[r][v] = accumulate ? loadf(c + r * ldc + v * kLanes) : vf{};
#pragma GCC unroll kUnroll
  for (int64_t k = 0; k < depth; k++) advance_tile(acc, a + k * lda, 1, b + k * ldb);
#pragma GCC unroll 8
  for (int r = 0; r < kRows; r++)
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; v++) store(c + r * ldc + v * kLanes, acc[r][v]);
}

template <int kRows, int kVectors>
void add_outer_columns(int64_t columns, int64_t depth, const float* a, int64_t lda, const float* b,
                       int64_t ldb, float* c, int64_t ldc, bool accumulate) {
  int64_t j = 0;
  for (; j + kVectors * kLanes <= columns; j += kVectors * kLanes)
    add_outer_tile<kRows, kVectors>(depth, a, lda, b + j, ldb, c + j, ldc, accumulate);
  if constexpr (kVectors > 1) {
    if (j < columns)
      add_outer_columns<kRows, kVectors / 2>(columns - j, depth, a, lda, b + j, ldb, c + j, ldc, accumulate);
  }
}

template <int kRows>
void add_outer_rows(int64_t rows, int64_t columns, int64_t depth, const float* a, int64_t lda, const float* b,
                    int64_t ldb, float* c, int64_t ldc, bool accumulate) {
  for (; rows >= kRows; rows -= kRows, a += kRows, c += kRows * ldc)
    add_outer_columns<kRows, tile_vectors<float>(kRows)>(columns, depth, a, lda, b, ldb, c, ldc, accumulate);
  if constexpr (kRows > 1) {
    if (rows > 0) add_outer_rows<kRows - 1>(rows, columns, depth, a, lda, b, ldb, c, ldc, accumulate);
  }
}

// c[r, j] = (accumulate ? c[r, j] : 0) + sum_k a[k, r] * b[k, j]   for r < rows, j < columns, k < depth
//
// Sums run over k in ascending order, one chain per element. `columns` is a multiple of kLanes.
inline void multiply_transposed(int64_t rows, int64_t columns, int64_t depth, const float* a, int64_t lda,
                                const float* b, int64_t ldb, float* c, int64_t ldc, bool accumulate) {
  add_outer_rows<kTileRows<float>>(rows, columns, depth, a, lda, b, ldb, c, ldc, accumulate);
}

SPKV_ISA_END
