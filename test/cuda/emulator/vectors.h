// The vector types of CUDA. Their alignment is what the device asks for: a misaligned access fails here, too.
#pragma once

#define SPKV_VECTORS(Name, T)                                                        \
  struct Name##1 { T x; };                                                           \
  struct alignas(2 * sizeof(T)) Name##2 { T x, y; };                                 \
  struct Name##3 { T x, y, z; };                                                     \
  struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) Name##4 { T x, y, z, w; }; \
  inline Name##2 make_##Name##2(T x, T y) { return {x, y}; }                         \
  inline Name##3 make_##Name##3(T x, T y, T z) { return {x, y, z}; }                 \
  inline Name##4 make_##Name##4(T x, T y, T z, T w) { return {x, y, z, w}; }

SPKV_VECTORS(char, signed char)
SPKV_VECTORS(uchar, unsigned char)
SPKV_VECTORS(short, short)
SPKV_VECTORS(ushort, unsigned short)
SPKV_VECTORS(int, int)
SPKV_VECTORS(uint, unsigned)
SPKV_VECTORS(longlong, long long)
SPKV_VECTORS(ulonglong, unsigned long long)
SPKV_VECTORS(float, float)
SPKV_VECTORS(double, double)
#undef SPKV_VECTORS

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  constexpr operator uint3() const { return {x, y, z}; }
};
