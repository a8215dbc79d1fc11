// What the functions of native/cuda/common/ptx.cuh do, for the emulator.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include <cuda_bf16.h>

#include "emulator/block.h"
#include "emulator/copies.h"
#include "emulator/races.h"

namespace spkv {
namespace cuda {

inline uint32_t shared_address(const void* pointer) { return spkv_emulator::to_shared_address(pointer); }

inline const uint8_t* shared_pointer(uint32_t address) { return spkv_emulator::from_shared_address(address); }

// --- mbarrier

__forceinline__ void barrier_init(uint32_t barrier, uint32_t arrivals) {
  spkv_emulator::barrier_init(barrier, arrivals);
}
inline void barrier_init_fence() {}
__forceinline__ void barrier_arrive(uint32_t barrier) { spkv_emulator::barrier_arrive(barrier, 1, 0); }
__forceinline__ void barrier_arrive_for(uint32_t barrier, uint32_t arrivals) {
  spkv_emulator::barrier_arrive(barrier, arrivals, 0);
}
__forceinline__ void barrier_arrive_expect(uint32_t barrier, uint32_t bytes) {
  spkv_emulator::barrier_arrive(barrier, 1, bytes);
}
__forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity) { spkv_emulator::barrier_wait(barrier, parity); }

template <int id, int threads>
void named_barrier() {
  spkv_emulator::block_barrier("named_barrier", id, threads);
}

// --- Bulk copies

inline uint64_t evict_first_policy() { return 0; }
__forceinline__ void bulk_copy(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier) {
  spkv_emulator::bulk_copy(to, from, bytes, barrier);
}
__forceinline__ void bulk_copy(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier, uint64_t) {
  spkv_emulator::bulk_copy(to, from, bytes, barrier);
}

inline void prefetch_line(const void*) {}

// --- Copies of 16 bytes

__forceinline__ void copy_16(uint32_t to, const void* from, uint32_t bytes) {
  spkv_emulator::copy_16(to, from, bytes);
}
inline void end_copy_group() { spkv_emulator::end_copy_group(); }
template <int newest>
void wait_for_copy_groups() {
  spkv_emulator::wait_for_copy_groups(newest);
}

// --- Programmatic dependent launch: launches run one after another.

inline void wait_for_previous_launch() { spkv_emulator::races::wait_for_previous_launch(); }
inline void allow_next_launch() { spkv_emulator::races::allow_next_launch(); }

// --- Matrix fragments

struct Matrices {
  const uint8_t* row;
  uint32_t m[4];
};

// Element `column` of row `row` of the matrix `m` that a warp holds.
inline uint16_t matrix_element(void* const* records, int m, int row, int column) {
  const auto* holder = static_cast<const Matrices*>(records[row * 4 + column / 2]);
  return static_cast<uint16_t>(holder->m[m] >> (column % 2 * 16));
}

template <bool kTransposed>
__forceinline__ void load_matrices_as(uint32_t (&m)[4], uint32_t address) {
  if (address % 16 != 0) spkv_emulator::fail("load_matrices from address %u", address);
  namespace races = spkv_emulator::races;
  Matrices mine = {spkv_emulator::from_shared_address(address), {}};
  races::access(mine.row, 16, races::kRead, races::here());
  spkv_emulator::meet("load_matrices", ~0u, &mine, [](void* const* records) {
    for (int lane = 0; lane < 32; lane++) {
      for (int i = 0; i < 4; i++) {
        uint16_t pair[2];
        for (int j = 0; j < 2; j++) {
          int row = kTransposed ? lane % 4 * 2 + j : lane / 4;
          int column = kTransposed ? lane / 4 : lane % 4 * 2 + j;
          memcpy(&pair[j], static_cast<Matrices*>(records[i * 8 + row])->row + column * 2, 2);
        }
        static_cast<Matrices*>(records[lane])->m[i] = pair[0] | uint32_t{pair[1]} << 16;
      }
    }
  });
  memcpy(m, mine.m, sizeof(m));
}

__forceinline__ void load_matrices(uint32_t (&m)[4], uint32_t address) { load_matrices_as<false>(m, address); }
__forceinline__ void load_matrices_transposed(uint32_t (&m)[4], uint32_t address) {
  load_matrices_as<true>(m, address);
}

inline uint32_t transpose_matrix(uint32_t m) {
  Matrices mine = {nullptr, {m, 0, 0, 0}};
  spkv_emulator::meet("transpose_matrix", ~0u, &mine, [](void* const* records) {
    for (int lane = 0; lane < 32; lane++) {
      int row = lane / 4, column = lane % 4 * 2;
      static_cast<Matrices*>(records[lane])->m[1] =
          matrix_element(records, 0, column, row) | uint32_t{matrix_element(records, 0, column + 1, row)}
                                                        << 16;
    }
  });
  return mine.m[1];
}

inline float bf16_value(uint32_t bits) {
  uint32_t word = bits << 16;
  float x;
  memcpy(&x, &word, 4);
  return x;
}

struct Product16x8x16 {
  float d[4];
  uint32_t a[4], b[2];
};

inline void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  Product16x8x16 mine = {{d[0], d[1], d[2], d[3]}, {a[0], a[1], a[2], a[3]}, {b0, b1}};
  spkv_emulator::meet("multiply_add", ~0u, &mine, [](void* const* records) {
    float left[16][16], right[16][8];
    for (int lane = 0; lane < 32; lane++) {
      const auto* p = static_cast<const Product16x8x16*>(records[lane]);
      int g = lane / 4, t = lane % 4;
      for (int j = 0; j < 2; j++) {
        for (int i = 0; i < 4; i++)
          left[g + i % 2 * 8][2 * t + j + i / 2 * 8] = bf16_value(p->a[i] >> (j * 16) & 0xffff);
        for (int i = 0; i < 2; i++) right[2 * t + j + i * 8][g] = bf16_value(p->b[i] >> (j * 16) & 0xffff);
      }
    }
    float sums[16][8] = {};
    for (int i = 0; i < 16; i++)
      for (int k = 0; k < 16; k++)
        for (int j = 0; j < 8; j++) sums[i][j] += left[i][k] * right[k][j];
    for (int lane = 0; lane < 32; lane++) {
      auto* p = static_cast<Product16x8x16*>(records[lane]);
      for (int i = 0; i < 4; i++) p->d[i] += sums[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
    }
  });
  memcpy(d, mine.d, sizeof(d));
}

inline uint32_t pack_bf16(float low, float high) {
  return __nv_bfloat16(low).bits | uint32_t{__nv_bfloat16(high).bits} << 16;
}

inline float exp2_fast(float x) { return std::exp2(x); }

}  // namespace cuda
}  // namespace spkv
