// The one hot loop of the CPU backend: a few rows times a streamed panel. Matrix products run it over packed
// weights, attention over pages of keys (transposed) and values.
#pragma once

#include "cpu/simd.h"

SPKV_ISA_BEGIN

// A tile of rows x tile_vectors(rows) accumulators stays in registers while k advances. Few rows get more
// vectors, because a fused multiply-add takes four cycles and only independent chains hide them. The numbers,
// and how often the loop is unrolled, are the best of those for which GCC 12 spills nothing.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kUnroll = 2;
template <typename T>
constexpr int kTileRows = 6;
template <typename T>
constexpr int tile_vectors(int) {
  return 4;
}
#elif defined(__AVX2__)
constexpr int kUnroll = 1;
template <typename T>
constexpr int kTileRows = sizeof(T) == 4 ? 6 : 5;
template <typename T>
constexpr int tile_vectors(int rows) {
  return rows == 1 ? 8 : rows == 2 || (rows == 3 && sizeof(T) == 4) ? 4 : 2;
}
#else
constexpr int kUnroll = 1;
template <typename T>
constexpr int kTileRows = 4;
template <typename T>
constexpr int tile_vectors(int rows) {
  return rows == 1 ? 8 : 2;
}
#endif

// acc[r] += a[r] * b for one k.
template <int kRows, int kVectors>
SPKV_INLINE void advance_tile(vf (&acc)[kRows][kVectors], const float* a, int64_t lda,
                              const vf (&b)[kVectors]) {
#pragma GCC unroll 8
  for (int r = 0; r < kRows; r++) {
    float x = a[r * lda];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; v++) acc[r][v] += x * b[v];
  }
}

// What one k (f32) or one pair of k (bf16) adds to the tile.
template <int kRows, int kVectors>
SPKV_INLINE void advance_tile(vf (&acc)[kRows][kVectors], const float* a, int64_t lda, const float* b) {
  vf row[kVectors];
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; v++) row[v] = loadf(b + v * kLanes);
  advance_tile(acc, a, lda, row);
}
template <int kRows, int kVectors>
SPKV_INLINE void advance_tile(vf (&acc)[kRows][kVectors], const float* a, int64_t lda, const uint16_t* b) {
  vf row[kVectors];
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; v++) row[v] = as_float(load<vu>(b + 2 * v * kLanes) << 16);
  advance_tile(acc, a, lda, row);
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; v++) row[v] = as_float(load<vu>(b + 2 * v * kLanes) & 0xffff0000u);
  advance_tile(acc, a + 1, lda, row);
}

// Into the second-level cache: the first one is full of what is in use.
template <int kBytes>
SPKV_INLINE void fetch(const char* p) {
#pragma GCC unroll 8
  for (int i = 0; i < kBytes; i += 64) __builtin_prefetch(p + i, 0, 2);
}

template <typename T, int kRows, int kVectors, bool kAhead>
void multiply_tile(int64_t depth, const float* a, int64_t lda, const T* b, int64_t ldb, float* c, int64_t ldc,
                   bool accumulate, int64_t ahead) {
  constexpr int64_t kStep = 4 / sizeof(T);  // k per 32-bit lane
  vf acc[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; r++)
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; v++) acc[r][v] = accumulate ? loadf(c + r * ldc + v * kLanes) : vf{};
#pragma GCC unroll kUnroll
  for (int64_t k = 0; k < depth; k += kStep) {
    advance_tile(acc, a + k, lda, b + k * ldb);
    if constexpr (kAhead) fetch<kVectors * kLanes * 4>(reinterpret_cast<const char*>(b + k * ldb) + ahead);
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; r++)
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; v++) store(c + r * ldc + v * kLanes, acc[r][v]);
}

// All columns of kRows rows: wide tiles first, then narrower ones for the rest.
template <typename T, int kRows, int kVectors, bool kAhead>
inline void multiply_columns(int64_t columns, int64_t depth, const float* a, int64_t lda, const T* b,
                             int64_t ldb, float* c, int64_t ldc, bool accumulate, int64_t ahead) {
  constexpr int64_t kWidth = kVectors * kLanes;
  int64_t j = 0;
  for (; j + kWidth <= columns; j += kWidth)
    multiply_tile<T, kRows, kVectors, kAhead>(depth, a, lda, b + j * (4 / sizeof(T)), ldb, c + j, ldc,
                                              accumulate, ahead);
  if constexpr (kVectors > 1) {
    if (j < columns)
      multiply_columns<T, kRows, kVectors / 2, kAhead>(columns - j, depth, a, lda, b + j * (4 / sizeof(T)),
                                                       ldb, c + j, ldc, accumulate, ahead);
  }
}

template <typename T, int kRows, bool kAhead>
inline void multiply_rows(int64_t rows, int64_t columns, int64_t depth, const float* a, int64_t lda,
                          const T* b, int64_t ldb, float* c, int64_t ldc, bool accumulate, int64_t ahead) {
  if constexpr (kRows > 1) {
    if (rows < kRows)
      return multiply_rows<T, kRows - 1, kAhead>(rows, columns, depth, a, lda, b, ldb, c, ldc, accumulate,
                                                 ahead);
  }
  multiply_columns<T, kRows, tile_vectors<T>(kRows), kAhead>(columns, depth, a, lda, b, ldb, c, ldc,
                                                             accumulate, ahead);
}

// c[r, j] = (accumulate ? c[r, j] : 0) + sum_k a[r, k] * b[k, j]   for r < rows, j < columns, k < depth
//
// With kAhead, what lies `ahead` bytes behind each piece of b is fetched while that piece is used: a next
// panel of the same shape, which no prefetcher of the processor could foresee. Spread over the loop, the
// fetches never wait for each other.
//
// Sums run over k in ascending order in one chain of fused multiply-adds per element, whatever `rows` is.
// `columns` is a multiple of kLanes.
//   T = float:    b[k, j] at b[k * ldb + j]
//   T = uint16_t: bf16 in pairs of k: b[k, j] at b[(k / 2) * 2 * ldb + 2 * j + k % 2]; depth is even. One
//   load
//                 gives two vectors, each at the price of a shift or a mask.
template <typename T, bool kAhead = false>
void multiply_panel(int64_t rows, int64_t columns, int64_t depth, const float* a, int64_t lda, const T* b,
                    int64_t ldb, float* c, int64_t ldc, bool accumulate, int64_t ahead = 0) {
  // Tiles of about equal height: 8 rows are 4 + 4, not 6 + 2.
  int64_t tiles = divide_up(rows, kTileRows<T>);
  for (; tiles > 0; tiles--) {
    int64_t height = divide_up(rows, tiles);
    multiply_rows<T, kTileRows<T>, kAhead>(height, columns, depth, a, lda, b, ldb, c, ldc, accumulate, ahead);
    rows -= height;
    a += height * lda;
    c += height * ldc;
  }
}

SPKV_ISA_END
