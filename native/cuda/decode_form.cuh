// What decode attention knows of the two forms of pages that it reads: how the numbers of a page become
// operands of matrix instructions, which take bf16. With g = lane / 4 and t = lane % 4, of every 16
// components a lane has, in the registers of
//
//                   keys and queries                         values, transposed: rows g and g + 8
//   bf16   (2t, 2t + 1)  (2t + 8, 2t + 9)                    components g and g + 8
//   fp8    (4t, 4t + 2)  (4t + 1, 4t + 3)                    components 2g and 2g + 1
//
// The order is free as long as queries and keys have the same, and results go where they belong. With fp8 it
// is that in which bytes lie: a word that ldmatrix brings has four numbers, and those at even and at odd
// places make a register each by shifting. That leaves numbers 2^120 too small, as exponents of bf16 count
// from elsewhere. For this, and so that sums stay far from the ends of f32, queries and weights are times
// 2^60, and so is a scale when it comes in:
//
//   score = (q 2^60 . k 2^-120) (scale 2^60)        out = 2^60 sum (p scale 2^60) (v 2^-120)
//
// Powers of two: none of it rounds.
#pragma once

#include <cuda_bf16.h>

#include "core/fp8.h"
#include "cuda/common/page.cuh"
#include "cuda/common/ptx.cuh"

namespace spkv {
namespace cuda {

constexpr int kTileSlots = 16;

// Factors of slots g and g + 8 of a tile, times 2^60; unused for bf16.
struct SlotScales {
  float key[2], value[2];
};

template <int dim>
struct Bf16Form {
  static constexpr bool kScaled = false;
  static constexpr int kDim = dim;
  static constexpr int kPageBytes = page_bytes(dim), kPanels = 2 * panels(dim), kTailBytes = 0;
  static constexpr int kNewRowBytes = 2 * dim;

  // The lane's components of 16 of a query, from shared memory.
  static __device__ __forceinline__ void load_query(const __nv_bfloat16* row, uint32_t (&q)[2]) {
    const uint32_t* words = reinterpret_cast<const uint32_t*>(row) + threadIdx.x % 4;
    q[0] = words[0];
    q[1] = words[4];
  }
  // Which of 16 components the lane has in row g, or g + 8, of the results.
  static __device__ __forceinline__ int component(int half) { return threadIdx.x % 32 / 4 + 8 * half; }

  // Operands from 16 slots of a page, beginning with `slot`, a multiple of 16.
  struct Tile {
    uint32_t keys, key_chunk, values, value_chunk;

    __device__ __forceinline__ Tile(uint32_t page, int slot) {
      int lane = threadIdx.x % 32, matrix = lane / 8;
      // Rows of a tile start at a multiple of 8, so that row & 7 is that of the lane in its matrix.
      keys = page + (slot + lane % 8 + matrix % 2 * 8) * kRowBytes;
      key_chunk = (matrix / 2 ^ lane % 8) * kChunkBytes;
      values = page + values_offset(dim) + (slot + lane % 8 + matrix / 2 * 8) * kRowBytes;
      value_chunk = (matrix % 2 ^ lane % 8) * kChunkBytes;
    }
    __device__ __forceinline__ void load_keys(int i, uint32_t (&a)[4]) {
      load_matrices(a, keys + i / 4 * kPanelBytes + (key_chunk ^ i % 4 * 2 * kChunkBytes));
    }
    __device__ __forceinline__ void load_values(int i, uint32_t (&a)[4]) {
      load_matrices_transposed(a, values + i / 4 * kPanelBytes + (value_chunk ^ i % 4 * 2 * kChunkBytes));
    }
    __device__ __forceinline__ SlotScales scales() const { return {}; }

   private:
    static constexpr int kRowBytes_ = kRowBytes;
  };

  // The same of a tile whose slot 0 has a new pair and the others nothing.
  struct NewTile {
    const uint32_t* key;
    const unsigned short* value;

    __device__ __forceinline__ NewTile(const uint8_t* key_row, const uint8_t* value_row)
        : key(reinterpret_cast<const uint32_t*>(key_row)),
          value(reinterpret_cast<const unsigned short*>(value_row)) {}
    __device__ __forceinline__ void load_keys(int i, uint32_t (&a)[4]) {
      int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
      a[0] = g == 0 ? key[i * 8 + t] : 0;
      a[2] = g == 0 ? key[i * 8 + 4 + t] : 0;
      a[1] = a[3] = 0;
    }
    __device__ __forceinline__ void load_values(int i, uint32_t (&a)[4]) {
      int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
      a[0] = t == 0 ? value[i * 16 + g] : 0;
      a[1] = t == 0 ? value[i * 16 + 8 + g] : 0;
      a[2] = a[3] = 0;
    }
    __device__ __forceinline__ SlotScales scales() const { return {}; }
  };
};

// Bytes 0 and 2, or 1 and 3, of a word of e4m3 numbers as two bf16, times 2^-120.
__device__ __forceinline__ uint32_t even_numbers(uint32_t word) {
  return (word << 8 & 0x80008000u) | (word << 4 & 0x07f007f0u);
}
__device__ __forceinline__ uint32_t odd_numbers(uint32_t word) {
  return (word & 0x80008000u) | (word >> 4 & 0x07f007f0u);
}

template <int dim>
struct Fp8Form {
  static constexpr bool kScaled = true;
  static constexpr int kDim = dim;
  static constexpr int kPageBytes = fp8_page_bytes(dim), kPanels = panels(dim), kTailBytes = 2 * kPageSlots;
  static constexpr int kNewRowBytes = dim + 16;

  static __device__ __forceinline__ void load_query(const __nv_bfloat16* row, uint32_t (&q)[2]) {
    const __nv_bfloat16* mine = row + threadIdx.x % 4 * 4;
#pragma unroll
    for (int i = 0; i < 2; i++)
      q[i] = pack_bf16(__bfloat162float(mine[i]) * 0x1p60f, __bfloat162float(mine[i + 2]) * 0x1p60f);
  }
  static __device__ __forceinline__ int component(int half) { return threadIdx.x % 32 / 4 * 2 + half; }

  static __device__ __forceinline__ float factor(uint8_t scale) { return fp8::factor(scale) * 0x1p60f; }

  // A load brings the words of two steps.
  struct Tile {
    uint32_t rows, chunk;
    const uint8_t* scale;
    uint32_t words[4];

    __device__ __forceinline__ Tile(uint32_t page, int slot) {
      int lane = threadIdx.x % 32, matrix = lane / 8;
      rows = page + (slot + lane % 8 + matrix % 2 * 8) * kRowBytes;
      chunk = (matrix / 2 ^ lane % 8) * kChunkBytes;
      scale = shared_pointer(page) + fp8_scales_offset(dim) + slot + lane / 4;
    }
    // The chunk of step i, of those that follow chunk `first`.
    __device__ __forceinline__ uint32_t address(int first, int i) const {
      int at = first + i;
      return rows + at / 8 * kPanelBytes + (chunk ^ at % 8 * kChunkBytes);
    }
    __device__ __forceinline__ void load_keys(int i, uint32_t (&a)[4]) {
      if (i % 2 == 0) load_matrices(words, address(0, i));
      a[0] = even_numbers(words[i % 2 * 2]);
      a[1] = even_numbers(words[i % 2 * 2 + 1]);
      a[2] = odd_numbers(words[i % 2 * 2]);
      a[3] = odd_numbers(words[i % 2 * 2 + 1]);
    }
    __device__ __forceinline__ void load_values(int i, uint32_t (&a)[4]) {
      if (i % 2 == 0) load_matrices_transposed(words, address(dim / kFp8ChunkDims, i));
      a[0] = even_numbers(words[i % 2 * 2]);
      a[1] = odd_numbers(words[i % 2 * 2]);
      a[2] = even_numbers(words[i % 2 * 2 + 1]);
      a[3] = odd_numbers(words[i % 2 * 2 + 1]);
    }
    __device__ __forceinline__ SlotScales scales() const {
      return {{factor(scale[0]), factor(scale[8])},
              {factor(scale[kPageSlots]), factor(scale[kPageSlots + 8])}};
    }
  };

  struct NewTile {
    const uint8_t *key, *value;

    __device__ __forceinline__ NewTile(const uint8_t* key_row, const uint8_t* value_row)
        : key(key_row), value(value_row) {}
    __device__ __forceinline__ void load_keys(int i, uint32_t (&a)[4]) {
      int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
      uint32_t word = g == 0 ? reinterpret_cast<const uint32_t*>(key)[i * 4 + t] : 0;
      a[0] = even_numbers(word);
      a[2] = odd_numbers(word);
      a[1] = a[3] = 0;
    }
    __device__ __forceinline__ void load_values(int i, uint32_t (&a)[4]) {
      int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
      uint32_t word = t == 0 ? reinterpret_cast<const unsigned short*>(value)[i * 8 + g] : 0;
      a[0] = even_numbers(word);
      a[1] = odd_numbers(word);
      a[2] = a[3] = 0;
    }
    __device__ __forceinline__ SlotScales scales() const {
      return {{factor(key[dim]), 0}, {factor(value[dim]), 0}};
    }
  };
};

}  // namespace cuda
}  // namespace spkv
