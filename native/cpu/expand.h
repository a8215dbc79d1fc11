// Pages of an fp8 cache as f32 ones, which all kernels multiply. That costs arithmetic where decoding waits
// for memory anyway: half the bytes of bf16 are read.
#pragma once

#include "cpu/page.h"
#include "cpu/simd.h"

SPKV_ISA_BEGIN

// As fp8::decode, of byte `kByte` of every word, times a scale's factor. It makes no f32 below the normal
// ones: processors take a hundred cycles for each.
template <int kByte>
SPKV_INLINE vf decode_byte(vu words, vf factor) {
  vu sign = words << (24 - 8 * kByte) & 0x80000000u;
  vu magnitude = (kByte == 3 ? words >> 4 : words << (20 - 8 * kByte)) & 0x07f00000u;
  vf x = as_float(magnitude + (120u << 23));
  vf below_normal = x + x - splat(0x1p-6f);
  x = select((vi)(magnitude < 1u << 23), below_normal, x);
  return as_float((vu)x | sign) * factor;
}

// The first `columns` slots, a multiple of 16.
inline void expand_page(const Page<uint8_t>& from, int64_t columns, const Page<float>& to) {
  alignas(64) float factors[kPageTokens];
  for (int64_t i = 0; i < columns; i++) factors[i] = fp8::factor(from.key_scale(i));
  for (int64_t d = 0; d < from.dim; d += 4) {
    float* rows = to.keys + d * kPageTokens;
    for (int64_t j = 0; j < columns; j += kLanes) {
      vu words = load<vu>(&from.key(j, d));
      vf factor = loadf(factors + j);
      store(rows + j, decode_byte<0>(words, factor));
      store(rows + kPageTokens + j, decode_byte<1>(words, factor));
      if (d + 2 == from.dim) continue;
      store(rows + 2 * kPageTokens + j, decode_byte<2>(words, factor));
      store(rows + 3 * kPageTokens + j, decode_byte<3>(words, factor));
    }
  }
  int64_t width = padded_dim(from.dim);
  for (int64_t slot = 0; slot < columns; slot += 4) {
    float* rows = to.values + slot * width;
    auto factor = [&](int64_t i) { return splat(fp8::factor(from.value_scale(slot + i))); };
    vf factor0 = factor(0), factor1 = factor(1), factor2 = factor(2), factor3 = factor(3);
    for (int64_t j = 0; j < width; j += kLanes) {
      vu words = load<vu>(&from.value(slot, j));
      store(rows + j, decode_byte<0>(words, factor0));
      store(rows + width + j, decode_byte<1>(words, factor1));
      store(rows + 2 * width + j, decode_byte<2>(words, factor2));
      store(rows + 3 * width + j, decode_byte<3>(words, factor3));
    }
  }
}

// The first `columns` slots of a page as a kernel multiplies them: as they are, or those of an fp8 page
// expanded to the f32 page in `memory`.
template <typename T>
SPKV_INLINE Page<T> readable(const Page<T>& page, int64_t, float*) {
  return page;
}
SPKV_INLINE Page<float> readable(const Page<uint8_t>& page, int64_t columns, float* memory) {
  Page<float> expanded(memory, page.dim);
  expand_page(page, columns, expanded);
  return expanded;
}

// What `readable` needs of it.
SPKV_INLINE int64_t expanded_floats(const CacheGeometry& geometry) {
  return geometry.dtype == DType::kFP8 ? Page<float>::bytes(geometry.head_dim) / 4 : 0;
}

// A key or value of the step as a cache with elements T will hold it, where attention sees it so: in fp8.
// Then `memory` has room for it.
template <typename T>
SPKV_INLINE const float* as_stored(const float* row, int64_t dim, float* memory) {
  if constexpr (!Page<T>::kScaled) return row;
  uint8_t scale = fp8_scale(row, dim);
  for (int64_t d = 0; d < dim; d++) memory[d] = fp8::decode(fp8::encode(row[d], scale), scale);
  return memory;
}

SPKV_ISA_END
