// Loops over the rows of a matrix and over the vectors of a row.
#pragma once

#include "cpu/simd.h"

SPKV_ISA_BEGIN

// What a step of for_lanes covers: a whole vector, or its first `count` lanes at the end of a row.
struct Full {
  static constexpr int64_t count = kLanes;
};
struct Part {
  int64_t count;
};

// Calls step(i, lanes) for i = 0, kLanes, 2 kLanes, ... below n; `lanes` goes to read and write.
template <typename Step>
inline __attribute__((always_inline)) void for_lanes(int64_t n, const Step& step) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) step(i, Full());
  if (i < n) step(i, Part{n - i});
}

// Lanes that a Part does not cover read as `fill`.
template <typename T>
inline __attribute__((always_inline)) vf read(const T* p, Full, float = 0) {
  return Element<T>::vector(p);
}
inline vf read(const float* p, Part lanes, float fill = 0) {
  vf v = splat(fill);
  memcpy(&v, p, static_cast<size_t>(lanes.count) * 4);
  return v;
}
inline vf read(const uint16_t* p, Part lanes) {
  vh v = {};
  memcpy(&v, p, static_cast<size_t>(lanes.count) * 2);
  return load_bf16(reinterpret_cast<const uint16_t*>(&v));
}
inline __attribute__((always_inline)) vi read(const int32_t* p, Full) { return load<vi>(p); }
inline vi read(const int32_t* p, Part lanes) {
  vi v = {};
  memcpy(&v, p, static_cast<size_t>(lanes.count) * 4);
  return v;
}

template <typename T, typename V>
inline __attribute__((always_inline)) void write(T* p, V v, Full) {
  static_assert(sizeof(V) == sizeof(T) * kLanes, "one lane per element");
  store(p, v);
}
template <typename T, typename V>
inline __attribute__((always_inline)) void write(T* p, V v, Part lanes) {
  static_assert(sizeof(V) == sizeof(T) * kLanes, "one lane per element");
  memcpy(p, &v, static_cast<size_t>(lanes.count) * sizeof(T));
}

// Calls body(begin, end) for ranges of rows that cover [0, rows). `cost` is the work of a row, in elements
// that are loaded, combined and stored. Small work stays on this thread: sharing it costs about a
// microsecond.
template <typename Body>
inline void for_rows(Execution& execution, int64_t rows, int64_t cost, const Body& body) {
  constexpr int64_t kShare = 8192, kMaxRanges = 256;
  const int64_t ranges = smaller(smaller(rows, rows * cost / kShare), kMaxRanges);
  if (ranges <= 1) {
    if (rows > 0) body(int64_t{0}, rows);
    return;
  }
  parallel(execution, ranges,
           [&](int64_t range, int) { body(range * rows / ranges, (range + 1) * rows / ranges); });
}

SPKV_ISA_END
