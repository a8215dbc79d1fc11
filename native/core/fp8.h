// fp8, the smallest dtype of a cache. A row of D numbers (a key or a value) is D bytes, one e4m3 each, and a
// byte for the scale that they share:
//
//   number  e4m3 * 2^(scale - 127)
//   e4m3    sign, 4 bits of exponent, 3 of mantissa: up to 448, in steps of 2^-9 below 2^-6
//   scale   the least with which no number of the row exceeds 448; 67 to 187, that is 2^-60 to 2^60
//
// As the scale is a power of two, rounding a number is all that is ever lost: what a row holds is exact in
// bf16 and f32, and so is every product with a scale. Rows with a number beyond 448 * 2^60, or none, are not
// finite in fp8: their scale is 255, infinity, and all that is read from them is NaN. No cache takes them in.
//
// These functions are the only ones that round to fp8, on every device.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/view.h"

namespace spkv {
namespace fp8 {

constexpr uint32_t kLargestBits = 0x61e00000;  // of the f32 448 * 2^60
constexpr float kLargest = 448.0f * 0x1p60f;
constexpr uint8_t kLeastScale = 127 - 60;
constexpr uint8_t kMostScale = 127 + 60;
constexpr uint8_t kNonFinite = 255;

SPKV_INLINE float from_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}
SPKV_INLINE uint32_t to_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}
SPKV_INLINE uint32_t magnitude(float x) { return to_bits(x) & 0x7fffffffu; }

// The scale of a row whose largest |x| has these bits.
SPKV_INLINE uint8_t scale_of(uint32_t largest) {
  if (largest > kLargestBits) return kNonFinite;
  // Up to 1.75 * 2^e, 448 is 2^(e - 8) times as much; above it is the next power.
  int32_t scale = static_cast<int32_t>((largest + 0x1fffff) >> 23) - 8;
  return static_cast<uint8_t>(scale < kLeastScale ? kLeastScale : scale);
}

SPKV_INLINE float factor(uint8_t scale) { return from_bits(uint32_t{scale} << 23); }

// x / factor(scale), to nearest, ties to even. No number of the row exceeds 448 of its scale.
SPKV_INLINE uint8_t encode(float x, uint8_t scale) {
  if (scale == kNonFinite) return 0;
  float scaled = x * from_bits((254 - uint32_t{scale}) << 23);
  uint32_t bits = magnitude(scaled);
  uint32_t normal = ((bits + 0x7ffff + (bits >> 20 & 1)) >> 20) - (120 << 3);
  // Adding 2^14 leaves steps of 2^-9.
  uint32_t small = to_bits(from_bits(bits) + 16384.0f) & 0xf;
  uint32_t code = bits < 0x3c800000 ? small : normal;  // 2^-6
  return static_cast<uint8_t>(code | (to_bits(scaled) >> 24 & 0x80));
}

SPKV_INLINE float decode(uint8_t code, uint8_t scale) {
  float magnitude = from_bits(uint32_t{code & 0x7fu} << 20) * 0x1p120f;
  return (code & 0x80 ? -magnitude : magnitude) * factor(scale);
}

}  // namespace fp8
}  // namespace spkv
