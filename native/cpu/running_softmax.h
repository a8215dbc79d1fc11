// Attention of a few query rows over panels of keys and values, with a running softmax.
#pragma once

#include "cpu/microkernel.h"
#include "cpu/page.h"

SPKV_ISA_BEGIN

constexpr int64_t kMostRows =
    24;  // that one panel is multiplied with: scores and weights stay in the L1 cache

alignas(64) constexpr int32_t kIota[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
SPKV_INLINE vi iota_from(int64_t first) { return load<vi>(kIota) + static_cast<int32_t>(first); }
SPKV_INLINE vf minus_infinity() { return splat(-__builtin_inff()); }

// e^x for x <= 0, as `exp` but shorter; NaN gives NaN.
SPKV_INLINE vf exp_of_negative(vf x) {
  const vf least = splat(-87.3f), magic = splat(12582912.0f);
  vi vanishes = x < least;
  x = select(vanishes, least, x);
  vf t = x * splat(1.44269504088896341f) + magic;
  vf n = t - magic;
  vf r = x - n * splat(0.693359375f);
  r = r - n * splat(-2.12194440e-4f);
  vf p = splat(1.9875691500e-4f);
  p = p * r + splat(1.3981999507e-3f);
  p = p * r + splat(8.3334519073e-3f);
  p = p * r + splat(4.1665795894e-2f);
  p = p * r + splat(1.6666665459e-1f);
  p = p * r + splat(5.0000001201e-1f);
  p = p * (r * r) + (r + splat(1.0f));
  vi k = (vi)t - (vi)magic;
  return select(vanishes, vf{}, p * as_float((vu)((k + splati(127)) << 23)));
}

// multiply_panel for few rows and a panel that comes from memory. A tile that is no wider than a cache line
// makes several passes over the panel, a stripe at a time, which no prefetcher follows; so it goes in blocks
// of 4 KiB, each fetched while the one before is used. Where the panel has been fetched `ahead`, none of this
// is needed. The sums are the same.
template <typename T>
SPKV_INLINE void multiply_stream(int64_t rows, int64_t columns, int64_t depth, const float* a, int64_t lda,
                                 const T* b, int64_t ldb, float* c, int64_t ldc, bool accumulate,
                                 int64_t ahead) {
  if (ahead != 0) {
    multiply_panel<T, true>(rows, columns, depth, a, lda, b, ldb, c, ldc, accumulate, ahead);
    return;
  }
  if (rows > 8 || tile_vectors<T>(static_cast<int>(rows)) * kLanes > 16) {
    multiply_panel(rows, columns, depth, a, lda, b, ldb, c, ldc, accumulate);
    return;
  }
  const int64_t block = larger<int64_t>(2, 4096 / (ldb * static_cast<int64_t>(sizeof(T))) / 2 * 2);
  for (int64_t k = 0; k < depth; k += block) {
    const char* next = reinterpret_cast<const char*>(b + (k + block) * ldb);
    for (int64_t i = 0; i < 4096; i += 64) __builtin_prefetch(next + i);
    multiply_panel(rows, columns, smaller(block, depth - k), a + k, lda, b + k * ldb, ldb, c, ldc,
                   accumulate || k > 0);
  }
}

// What the rows have seen so far: with p = exp(score - top), the sums of p (one per lane) and of p * value.
// `add` takes 16 to 64 keys more.
struct RunningSoftmax {
  int64_t rows, dim;
  const float* q;     // [rows][dim], times the scale
  float* top;         // [rows] -infinity before the first visible key
  float* sum;         // [rows][kLanes]
  float* out;         // [rows][padded_dim(dim)]
  int64_t ahead = 0;  // bytes from the keys and values to those that come next, of as many rows; 0 for none

  // The rows [first, first + count) of these.
  SPKV_INLINE RunningSoftmax part(int64_t first, int64_t count) const {
    return {count, dim, q + first * dim, top + first, sum + first * kLanes, out + first * padded_dim(dim)};
  }

  SPKV_INLINE void clear() const {
    for (int64_t r = 0; r < rows; r++) top[r] = -__builtin_inff();
    memset(sum, 0, static_cast<size_t>(rows * kLanes) * sizeof(float));
    memset(out, 0, static_cast<size_t>(rows * padded_dim(dim)) * sizeof(float));
  }

  // Keys and values are panels as in cpu/page.h; `columns` is a multiple of 16. `adjust(row, column, scores)`
  // may change scores; with -infinity a key has no part at all, whatever its score was, but its value must be
  // finite. At most kMostRows rows.
  template <typename T, typename Adjust>
  void add(const T* keys, const T* values, int64_t columns, const Adjust& adjust) const {
    alignas(64) float scores[kMostRows * kPageTokens];
    int64_t width = padded_dim(dim);
    multiply_stream(rows, columns, dim, q, dim, keys, kPageTokens, scores, kPageTokens, false, ahead);
    for (int64_t r = 0; r < rows; r++) weigh(r, columns, scores + r * kPageTokens, adjust);
    multiply_stream(rows, width, columns, scores, kPageTokens, values, width, out, width, true, ahead);
  }

  // Turns the scores of row r into weights.
  template <typename Adjust>
  SPKV_INLINE void weigh(int64_t r, int64_t columns, float* scores, const Adjust& adjust) const {
    vf highest = minus_infinity();
    for (int64_t j = 0; j < columns; j += kLanes) {
      vf x = adjust(r, j, loadf(scores + j));
      if (Adjust::kChanges) store(scores + j, x);
      highest = maximum(x, highest);
    }
    float highest_score = max_lane(highest);
    if (highest_score > top[r]) raise(r, highest_score);
    vf shift = splat(top[r] == -__builtin_inff() ? 0.0f : top[r]);
    vf total = loadf(sum + r * kLanes);
    for (int64_t j = 0; j < columns; j += kLanes) {
      vf p = exp_of_negative(loadf(scores + j) - shift);
      store(scores + j, p);
      total += p;
    }
    store(sum + r * kLanes, total);
  }

  SPKV_INLINE void raise(int64_t r, float highest) const {
    vf factor = exp_of_negative(splat(top[r] - highest));
    top[r] = highest;
    store(sum + r * kLanes, loadf(sum + r * kLanes) * factor);
    float* row = out + r * padded_dim(dim);
    for (int64_t d = 0; d < padded_dim(dim); d += kLanes) store(row + d, loadf(row + d) * factor);
  }

  // The result of row r.
  SPKV_INLINE void finish(int64_t r, float* result) const {
    float share = 1.0f / lane_sum(r);
    const float* row = out + r * padded_dim(dim);
    for (int64_t d = 0; d < dim; d++) result[d] = row[d] * share;
  }
  SPKV_INLINE float lane_sum(int64_t r) const { return spkv::cpu::SPKV_ISA::sum(loadf(sum + r * kLanes)); }
};

// Every key counts.
struct Visible {
  static constexpr bool kChanges = false;
  SPKV_INLINE vf operator()(int64_t, int64_t, vf scores) const { return scores; }
};

// The first `count` keys.
struct FirstColumns {
  static constexpr bool kChanges = true;
  int64_t count;
  SPKV_INLINE vf operator()(int64_t, int64_t column, vf scores) const {
    return select(iota_from(column) < splati(static_cast<int32_t>(count)), scores, minus_infinity());
  }
};

// Slots of a page that `count` pairs take up, as `add` counts them.
SPKV_INLINE int64_t columns_for(int64_t count) { return smaller(kPageTokens, (count + 15) / 16 * 16); }

// The first `count` keys of a panel.
template <typename T>
SPKV_INLINE void add_first(const RunningSoftmax& state, const T* keys, const T* values, int64_t count) {
  if (count >= kPageTokens) {
    state.add(keys, values, kPageTokens, Visible());
  } else if (count > 0) {
    state.add(keys, values, columns_for(count), FirstColumns{count});
  }
}

// Row r of query rows that are numbered head by head within each token: [tokens][group].
SPKV_INLINE const float* query_row(const View& q, int64_t token, int64_t head) {
  return q.as<float>() + token * q.stride[0] + head * q.stride[1];
}

SPKV_INLINE void scale_row(const float* row, int64_t dim, float scale, float* out) {
  for (int64_t d = 0; d < dim; d++) out[d] = row[d] * scale;
}

SPKV_ISA_END
