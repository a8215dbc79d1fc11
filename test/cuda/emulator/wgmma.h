// What the functions of native/cuda/common/wgmma.cuh do, for the emulator. Products are complete as soon as they
// are issued, and each warp computes its own 16 rows.
#pragma once

#include "emulator/ptx.h"

namespace spkv {
namespace cuda {

struct SharedMatrix {
  uint32_t address, panel_bytes;

  SharedMatrix operator+(uint32_t bytes) const { return {address + bytes, panel_bytes}; }
};

inline SharedMatrix rows_along_sum(uint32_t address) { return {address, 0}; }
inline SharedMatrix rows_across_sum(uint32_t address, uint32_t panel_bytes) { return {address, panel_bytes}; }

inline void group_begin() {}
inline void group_end() { spkv_emulator::races::end_matrix_group(); }
template <int newest>
void group_wait() {
  spkv_emulator::races::wait_for_matrix_groups(newest);
}
template <int count>
void hold(float (&)[count]) {}
inline void publish_shared() { spkv_emulator::races::publish_shared(); }
template <int count>
void take_registers() {}
template <int count>
void leave_registers() {}

struct GroupProduct {
  float* d;
  const uint32_t* a_registers;  // null: `a`
  SharedMatrix a, b;
  int warp;
  bool add;
  const void* code;
};

inline const uint8_t* swizzled_place(uint32_t address) {
  return spkv_emulator::from_shared_address(address ^ (address >> 7 & 7) << 4);
}

inline float shared_bf16(uint32_t address) {
  uint16_t bits;
  memcpy(&bits, swizzled_place(address), 2);
  return bf16_value(bits);
}

// What the rows of an operand read in 16 steps of the sum, `count` of them from `first`.
template <bool kTransposed>
void operand_reads(spkv_emulator::races::MatrixReads* reads, SharedMatrix matrix, int first, int count) {
  for (int at = kTransposed ? first / 8 : first; at < (kTransposed ? (first + count) / 8 : first + count); at++) {
    for (int i = 0; i < (kTransposed ? 16 : 2); i++) {
      int offset = kTransposed ? at % 8 * 16 + i * kRowBytes : at * kRowBytes + i * 16;
      uint32_t panel = kTransposed ? static_cast<uint32_t>(at / 8) * matrix.panel_bytes : 0;
      reads->add(swizzled_place(matrix.address + panel + static_cast<uint32_t>(offset)), 16);
    }
  }
}

template <int kColumns, bool kTransposedB, bool kTransposedA>
__forceinline__ void group_product(GroupProduct mine) {
  mine.code = spkv_emulator::races::here();
  spkv_emulator::meet("group_multiply_add", ~0u, &mine, [](void* const* records) {
    const auto& first = *static_cast<const GroupProduct*>(records[0]);
    spkv_emulator::races::MatrixReads reads(spkv_emulator::thread_number() / 32 * 32, first.code);
    if (!first.a_registers) operand_reads<kTransposedA>(&reads, first.a, first.warp * 16, 16);
    operand_reads<kTransposedB>(&reads, first.b, 0, kColumns);
    float left[16][16], right[16][kColumns];
    for (int row = 0; row < 16; row++) {
      for (int k = 0; k < 16; k++) {
        if (first.a_registers) {
          const auto* holder = static_cast<const GroupProduct*>(records[row % 8 * 4 + k % 8 / 2]);
          left[row][k] = bf16_value(holder->a_registers[row / 8 + k / 8 * 2] >> (k % 2 * 16) & 0xffff);
        } else {
          int at = first.warp * 16 + row;
          left[row][k] = shared_bf16(first.a.address + static_cast<uint32_t>(kTransposedA ? k * kRowBytes + at * 2
                                                                                          : at * kRowBytes + k * 2));
        }
      }
    }
    for (int k = 0; k < 16; k++) {
      for (int n = 0; n < kColumns; n++) {
        uint32_t offset = kTransposedB ? static_cast<uint32_t>(n / 64) * first.b.panel_bytes +
                                             static_cast<uint32_t>(k * kRowBytes + n % 64 * 2)
                                       : static_cast<uint32_t>(n * kRowBytes + k * 2);
        right[k][n] = shared_bf16(first.b.address + offset);
      }
    }
    for (int lane = 0; lane < 32; lane++) {
      auto* p = static_cast<GroupProduct*>(records[lane]);
      for (int i = 0; i < kColumns / 2; i++) {
        int row = lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
        float sum = p->add ? p->d[i] : 0;
        for (int k = 0; k < 16; k++) sum += left[row][k] * right[k][column];
        p->d[i] = sum;
      }
    }
  });
}

template <bool kTransposedB, bool kTransposedA = false, int kRegisters>
__forceinline__ void group_multiply_add(float (&d)[kRegisters], SharedMatrix a, SharedMatrix b, bool add) {
  group_product<kRegisters * 2, kTransposedB, kTransposedA>(
      {d, nullptr, a, b, spkv_emulator::thread_number() / 32 % 4, add, nullptr});
}

template <bool kTransposedB, int kRegisters>
__forceinline__ void group_multiply_add(float (&d)[kRegisters], const uint32_t (&a)[4], SharedMatrix b, bool add) {
  group_product<kRegisters * 2, kTransposedB, false>({d, a, {}, b, spkv_emulator::thread_number() / 32 % 4, add, nullptr});
}

}  // namespace cuda
}  // namespace spkv
