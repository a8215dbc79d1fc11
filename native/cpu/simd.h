// Vectors of the width that the instruction set has, on the vector extension of GCC and Clang: arithmetic is
// written with operators and compiles for AVX-512, AVX2, SSE2 and NEON alike.
#pragma once

#include <cstring>

#include "cpu/isa.h"

SPKV_ISA_BEGIN

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float vf __attribute__((vector_size(4 * kLanes)));
typedef int32_t vi __attribute__((vector_size(4 * kLanes)));
typedef uint32_t vu __attribute__((vector_size(4 * kLanes)));
typedef uint16_t vh __attribute__((vector_size(2 * kLanes)));  // as many bf16 values as a vf has lanes

template <typename V>
inline __attribute__((always_inline)) V load(const void* p) {
  V v;
  memcpy(&v, p, sizeof v);
  return v;
}
template <typename V>
inline __attribute__((always_inline)) void store(void* p, V v) {
  memcpy(p, &v, sizeof v);
}
inline __attribute__((always_inline)) vf loadf(const float* p) { return load<vf>(p); }
inline __attribute__((always_inline)) vf splat(float x) { return vf{} + x; }
inline __attribute__((always_inline)) vi splati(int32_t x) { return vi{} + x; }
inline __attribute__((always_inline)) vf as_float(vu bits) { return (vf)bits; }
inline __attribute__((always_inline)) vf select(vi mask, vf a, vf b) { return mask ? a : b; }
inline __attribute__((always_inline)) vf maximum(vf a, vf b) { return a > b ? a : b; }
inline __attribute__((always_inline)) vf minimum(vf a, vf b) { return a < b ? a : b; }

inline float as_float(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}
inline uint32_t as_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}

// bf16 is the upper half of an f32.
inline float from_bf16(uint16_t h) { return as_float(static_cast<uint32_t>(h) << 16); }
// Rounds to nearest even; NaN stays NaN.
inline uint16_t to_bf16(float x) {
  uint32_t bits = as_bits(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}
inline __attribute__((always_inline)) vf load_bf16(const uint16_t* p) {
  return as_float(__builtin_convertvector(load<vh>(p), vu) << 16);
}

template <typename T>
struct Element;
template <>
struct Element<float> {
  static float get(const float* p) { return *p; }
  static vf vector(const float* p) { return loadf(p); }
};
template <>
struct Element<uint16_t> {
  static float get(const uint16_t* p) { return from_bf16(*p); }
  static vf vector(const uint16_t* p) { return load_bf16(p); }
};

inline __attribute__((always_inline)) float sum(vf v) {
  float s[kLanes];
  store(s, v);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; i++) s[i] += s[i + width];
  return s[0];
}
inline __attribute__((always_inline)) float max_lane(vf v) {
  float s[kLanes];
  store(s, v);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; i++) s[i] = s[i] > s[i + width] ? s[i] : s[i + width];
  return s[0];
}

// e^x to about 1 ulp: 2^n * p(r) with x = (n + r) ln 2, |r| <= 1/2. Below -87.3 it gives 0, from 88.38 on
// infinity; NaN gives NaN.
inline __attribute__((always_inline)) vf exp(vf x) {
  const vf log2e = splat(1.44269504088896341f), ln2_high = splat(0.693359375f),
           ln2_low = splat(-2.12194440e-4f);
  const vf magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  vf clamped = minimum(maximum(x, splat(-104.0f)), splat(89.0f));
  vf t = clamped * log2e + magic;
  vf n = t - magic;
  vf r = clamped - n * ln2_high;
  r = r - n * ln2_low;
  vf p = splat(1.9875691500e-4f);
  p = p * r + splat(1.3981999507e-3f);
  p = p * r + splat(8.3334519073e-3f);
  p = p * r + splat(4.1665795894e-2f);
  p = p * r + splat(1.6666665459e-1f);
  p = p * r + splat(5.0000001201e-1f);
  p = p * (r * r) + r + splat(1.0f);
  vi k = (vi)t - (vi)magic;
  vf result = p * as_float((vu)((k + splati(127)) << 23));
  result = select(clamped < splat(-87.3f), vf{}, result);
  result = select(clamped > splat(88.7f), splat(__builtin_inff()), result);
  return select(x == x, result, x);
}

inline float exp1(float x) { return exp(splat(x))[0]; }

inline __attribute__((always_inline)) vf sigmoid(vf z) { return splat(1.0f) / (splat(1.0f) + exp(-z)); }
inline __attribute__((always_inline)) vf silu(vf z) { return z / (splat(1.0f) + exp(-z)); }

SPKV_ISA_END
