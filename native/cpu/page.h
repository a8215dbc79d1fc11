// The page of the CPU cache: 64 slots, a key panel and then a value panel, both in the form that
// multiply_panel streams. With D the head size and P = D rounded up to 16:
//
//          f32                          bf16           fp8
//   keys   [D][64]  slot i is column i  [D/2][64][2]   [D/4][64][4]   components of a slot side by side
//   values [64][P]  slot i is row i     [32][P][2]     [16][P][4]     slots side by side
//
//     keys          slot 0  slot 1 ... slot 63        values        component 0 ... D-1  padding
//     component 0     .       .          .            slot 0             .           .      0
//     ...                                             ...
//     component D-1   .       .          .            slot 63            .           .      0
//
// scores = q [rows][D] * keys      and      out [rows][P] += weights [rows][64] * values.
//
// In fp8 (core/fp8.h) D is rounded up to 4, and the scales follow, [64] of the keys and [64] of the values.
// Kernels make f32 of such a page before they multiply it: see cpu/expand.h.
//
// Everything here is always inlined, so that both the cache (compiled once) and the kernels (compiled once
// per instruction set) may use it.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/cache.h"
#include "core/fp8.h"

namespace spkv {
namespace cpu {

SPKV_INLINE int64_t padded_dim(int64_t head_dim) { return (head_dim + 15) / 16 * 16; }

SPKV_INLINE uint16_t round_to_bf16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

SPKV_INLINE float widen_bf16(uint16_t h) {
  uint32_t bits = static_cast<uint32_t>(h) << 16;
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

// Calls body(T()) with the element type of a dtype's pages.
template <typename Body>
SPKV_INLINE auto with_elements(DType dtype, const Body& body) {
  if (dtype == DType::kFP8) return body(uint8_t());
  return dtype == DType::kBF16 ? body(uint16_t()) : body(float());
}

// The scale of a row of numbers in fp8.
SPKV_INLINE uint8_t fp8_scale(const float* row, int64_t dim) {
  uint32_t largest = 0;
  for (int64_t d = 0; d < dim; d++) {
    uint32_t bits = fp8::magnitude(row[d]);
    largest = bits > largest ? bits : largest;
  }
  return fp8::scale_of(largest);
}

// One page whose elements are T: float, uint16_t for bf16, or uint8_t for fp8.
template <typename T>
struct Page {
  static constexpr int64_t kGroup = 4 / sizeof(T);
  static constexpr bool kScaled = sizeof(T) == 1;

  T* keys;
  T* values;
  int64_t dim;

  SPKV_INLINE Page(void* page, int64_t head_dim)
      : keys(static_cast<T*>(page)), values(keys + kPageTokens * grouped(head_dim)), dim(head_dim) {}

  static SPKV_INLINE int64_t bytes(int64_t head_dim) {
    int64_t scales = kScaled ? 2 * kPageTokens : 0;
    return kPageTokens * (grouped(head_dim) + padded_dim(head_dim)) * static_cast<int64_t>(sizeof(T)) +
           scales;
  }

  SPKV_INLINE T& key(int64_t slot, int64_t d) const {
    return keys[d / kGroup * kPageTokens * kGroup + slot * kGroup + d % kGroup];
  }
  SPKV_INLINE T& value(int64_t slot, int64_t d) const {
    return values[slot / kGroup * padded_dim(dim) * kGroup + d * kGroup + slot % kGroup];
  }

  // Of an fp8 key or value.
  SPKV_INLINE uint8_t& key_scale(int64_t slot) const {
    return reinterpret_cast<uint8_t*>(values + kPageTokens * padded_dim(dim))[slot];
  }
  SPKV_INLINE uint8_t& value_scale(int64_t slot) const { return key_scale(kPageTokens + slot); }

  SPKV_INLINE void write(int64_t slot, const float* k, const float* v) const {
    if constexpr (kScaled) {
      uint8_t scale = key_scale(slot) = fp8_scale(k, dim);
      for (int64_t d = 0; d < dim; d++) key(slot, d) = fp8::encode(k[d], scale);
      scale = value_scale(slot) = fp8_scale(v, dim);
      for (int64_t d = 0; d < dim; d++) value(slot, d) = fp8::encode(v[d], scale);
    } else if constexpr (kGroup == 1) {
      for (int64_t d = 0; d < dim; d++) key(slot, d) = k[d];
      memcpy(&value(slot, 0), v, static_cast<size_t>(dim) * sizeof(float));
    } else {
      // Whole words, which is faster: both components of a key at once, half of a word for a value.
      for (int64_t d = 0; d < dim; d += 2)
        put_word(&key(slot, d), round_to_bf16(k[d]) | static_cast<uint32_t>(round_to_bf16(k[d + 1])) << 16);
      T* row = &value(slot / 2 * 2, 0);
      int shift = slot % 2 * 16;
      for (int64_t d = 0; d < dim; d++)
        put_word(row + 2 * d, (get_word(row + 2 * d) & (0xffff0000u >> shift)) |
                                  static_cast<uint32_t>(round_to_bf16(v[d])) << shift);
    }
  }
  SPKV_INLINE void read(int64_t slot, float* k, float* v) const {
    uint8_t k_scale = kScaled ? key_scale(slot) : 0, v_scale = kScaled ? value_scale(slot) : 0;
    for (int64_t d = 0; d < dim; d++) k[d] = decode(key(slot, d), k_scale);
    for (int64_t d = 0; d < dim; d++) v[d] = decode(value(slot, d), v_scale);
  }
  SPKV_INLINE void copy(int64_t slot, const Page& source, int64_t source_slot) const {
    if constexpr (kScaled) {
      for (int64_t d = 0; d < dim; d++) key(slot, d) = source.key(source_slot, d);
      for (int64_t d = 0; d < dim; d++) value(slot, d) = source.value(source_slot, d);
      key_scale(slot) = source.key_scale(source_slot);
      value_scale(slot) = source.value_scale(source_slot);
    } else if constexpr (kGroup == 1) {
      for (int64_t d = 0; d < dim; d++) key(slot, d) = source.key(source_slot, d);
      memcpy(&value(slot, 0), &source.value(source_slot, 0), static_cast<size_t>(dim) * sizeof(float));
    } else {
      for (int64_t d = 0; d < dim; d += 2) put_word(&key(slot, d), get_word(&source.key(source_slot, d)));
      T* row = &value(slot / 2 * 2, 0);
      const T* from = &source.value(source_slot / 2 * 2, 0);
      int shift = slot % 2 * 16, source_shift = source_slot % 2 * 16;
      for (int64_t d = 0; d < dim; d++)
        put_word(row + 2 * d, (get_word(row + 2 * d) & (0xffff0000u >> shift)) |
                                  (get_word(from + 2 * d) >> source_shift & 0xffffu) << shift);
    }
  }

 private:
  static SPKV_INLINE int64_t grouped(int64_t head_dim) { return (head_dim + kGroup - 1) / kGroup * kGroup; }
  static SPKV_INLINE float decode(float x, uint8_t) { return x; }
  static SPKV_INLINE float decode(uint16_t x, uint8_t) { return widen_bf16(x); }
  static SPKV_INLINE float decode(uint8_t x, uint8_t scale) { return fp8::decode(x, scale); }
  static SPKV_INLINE uint32_t get_word(const T* p) {
    uint32_t word;
    memcpy(&word, p, 4);
    return word;
  }
  static SPKV_INLINE void put_word(T* p, uint32_t word) { memcpy(p, &word, 4); }
};

}  // namespace cpu
}  // namespace spkv
