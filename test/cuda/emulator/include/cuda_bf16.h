// Stands in for CUDA's header of this name under the emulator: bf16 numbers.
#pragma once

#include <cstdint>
#include <cstring>

#include <cuda_runtime.h>

struct __nv_bfloat16 {
  unsigned short bits;

  __nv_bfloat16() = default;
  __nv_bfloat16(float x) {  // to nearest, ties to even
    uint32_t word;
    memcpy(&word, &x, 4);
    if ((word & 0x7fffffff) > 0x7f800000) {
      bits = 0x7fff;
    } else {
      bits = static_cast<unsigned short>((word + 0x7fff + (word >> 16 & 1)) >> 16);
    }
  }
  explicit __nv_bfloat16(double x) : __nv_bfloat16(static_cast<float>(x)) {}
  explicit __nv_bfloat16(int x) : __nv_bfloat16(static_cast<float>(x)) {}
  operator float() const {
    uint32_t word = static_cast<uint32_t>(bits) << 16;
    float x;
    memcpy(&x, &word, 4);
    return x;
  }
};

struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};

using nv_bfloat16 = __nv_bfloat16;
using nv_bfloat162 = __nv_bfloat162;

inline __nv_bfloat16 __float2bfloat16(float x) { return __nv_bfloat16(x); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return __nv_bfloat16(x); }
inline float __bfloat162float(__nv_bfloat16 x) { return x; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) {
  __nv_bfloat16 x;
  x.bits = bits;
  return x;
}

inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__nv_bfloat16(x), __nv_bfloat16(y)}; }
inline __nv_bfloat162 __float22bfloat162_rn(float2 x) { return __floats2bfloat162_rn(x.x, x.y); }
inline __nv_bfloat162 __float2bfloat162_rn(float x) { return __floats2bfloat162_rn(x, x); }
inline float2 __bfloat1622float2(__nv_bfloat162 x) { return {x.x, x.y}; }
inline float __low2float(__nv_bfloat162 x) { return x.x; }
inline float __high2float(__nv_bfloat162 x) { return x.y; }
