// Pages as tests fill them by hand. Rounding to fp8 is written down here once more, from what core/fp8.h says.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include <cuda_bf16.h>

#include "core/view.h"
#include "cuda/common/page.cuh"

namespace spkv_test {

struct Fp8Row {
  std::vector<uint8_t> codes;
  uint8_t scale = 0;
  std::vector<__nv_bfloat16> numbers;  // what they stand for
};

inline Fp8Row round_to_fp8(const __nv_bfloat16* row, int dim) {
  Fp8Row result;
  double largest = 0;
  bool finite = true;
  for (int d = 0; d < dim; d++) {
    largest = std::max(largest, std::abs(static_cast<double>(__bfloat162float(row[d]))));
    finite = finite && std::isfinite(__bfloat162float(row[d]));
  }
  int exponent = -60;
  while (finite && std::ldexp(448.0, exponent) < largest) exponent++;
  result.scale = static_cast<uint8_t>(finite ? 127 + exponent : 255);
  for (int d = 0; d < dim; d++) {
    double x = finite ? std::ldexp(static_cast<double>(__bfloat162float(row[d])), -exponent) : 0;
    int power = x == 0 ? -6 : std::max(-6, std::ilogb(x));
    int steps = static_cast<int>(std::nearbyint(std::ldexp(std::abs(x), 3 - power)));  // ties to even
    double rounded = std::ldexp(static_cast<double>(steps), power - 3) * (x < 0 ? -1 : 1);
    result.numbers.push_back(
        __float2bfloat16(finite ? static_cast<float>(std::ldexp(rounded, exponent)) : NAN));
    if (steps == 16) power++, steps = 8;
    int code = steps < 8 ? steps : (power + 7) * 8 + steps - 8;
    result.codes.push_back(static_cast<uint8_t>(code | (std::signbit(x) ? 0x80 : 0)));
  }
  return result;
}

// Replaces rows of `dim` numbers by what a cache of this dtype holds of them.
inline void round_rows(std::vector<__nv_bfloat16>* rows, spkv::DType dtype, int dim) {
  if (dtype != spkv::DType::kFP8) return;
  for (size_t at = 0; at < rows->size(); at += static_cast<size_t>(dim)) {
    Fp8Row row = round_to_fp8(rows->data() + at, dim);
    std::copy(row.numbers.begin(), row.numbers.end(), rows->begin() + static_cast<int64_t>(at));
  }
}

// Rows as decode_attention takes new keys and values, `bytes` apart.
inline std::vector<uint8_t> pack_rows(const std::vector<__nv_bfloat16>& rows, spkv::DType dtype, int dim,
                                      int64_t bytes) {
  size_t count = rows.size() / static_cast<size_t>(dim);
  std::vector<uint8_t> packed(count * static_cast<size_t>(bytes), 0xff);
  for (size_t i = 0; i < count; i++) {
    const __nv_bfloat16* row = rows.data() + i * static_cast<size_t>(dim);
    uint8_t* to = packed.data() + i * static_cast<size_t>(bytes);
    if (dtype == spkv::DType::kFP8) {
      Fp8Row rounded = round_to_fp8(row, dim);
      std::copy(rounded.codes.begin(), rounded.codes.end(), to);
      to[dim] = rounded.scale;
    } else {
      memcpy(to, row, static_cast<size_t>(dim) * 2);
    }
  }
  return packed;
}

inline int page_bytes_of(spkv::DType dtype, int dim) {
  return dtype == spkv::DType::kFP8 ? spkv::cuda::fp8_page_bytes(dim) : spkv::cuda::page_bytes(dim);
}

// Writes a pair to a slot of a page.
inline void put_pair(uint8_t* page, spkv::DType dtype, int dim, int slot, const __nv_bfloat16* key,
                     const __nv_bfloat16* value) {
  using namespace spkv::cuda;
  for (int side = 0; side < 2; side++) {
    const __nv_bfloat16* row = side == 0 ? key : value;
    Fp8Row rounded;
    const uint8_t* bytes = reinterpret_cast<const uint8_t*>(row);
    int chunks = dim * 2 / kChunkBytes;
    if (dtype == spkv::DType::kFP8) {
      rounded = round_to_fp8(row, dim);
      bytes = rounded.codes.data();
      chunks = dim / kChunkBytes;
      page[fp8_scales_offset(dim) + side * kPageSlots + slot] = rounded.scale;
    }
    for (int c = 0; c < chunks; c++)
      memcpy(page + chunk_offset(slot, side * chunks + c), bytes + c * kChunkBytes, kChunkBytes);
  }
}

}  // namespace spkv_test
