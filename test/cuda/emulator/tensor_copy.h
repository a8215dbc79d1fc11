// What the functions of native/cuda/common/tensor_copy.cuh do, for the emulator.
#pragma once

#include "cuda/common/tensor_map.h"
#include "emulator/ptx.h"

namespace spkv {
namespace cuda {

__forceinline__ void tensor_copy(uint32_t to, const TensorMap* map, int token, int head, uint32_t barrier) {
  static const uint8_t zeros[16] = {};
  for (int panel = 0; panel < map->panels; panel++) {
    for (int row = 0; row < map->rows; row++, to += 128) {
      int64_t from = token + row;
      const auto* data = static_cast<const uint8_t*>(map->data) +
                         (from * map->token_stride + head * map->head_stride + panel * 64) * 2;
      bool there = from >= 0 && from < map->tokens;
      for (uint32_t c = 0; c < 8; c++)
        bulk_copy(to + (c ^ (to >> 7 & 7)) * 16, there ? data + c * 16 : zeros, 16, barrier);
    }
  }
}

__forceinline__ void bulk_add(float* to, uint32_t from, uint32_t bytes) {
  if (from % 16 != 0 || reinterpret_cast<uintptr_t>(to) % 16 != 0 || bytes % 16 != 0)
    spkv_emulator::fail("bulk addition of %u bytes: not multiples of 16", bytes);
  namespace races = spkv_emulator::races;
  const void* code = races::here();
  races::group_access(races::Group::kBulkReads, spkv_emulator::from_shared_address(from), bytes, races::kRead, code);
  races::group_access(races::Group::kBulkResults, to, bytes, races::kAtomicWrite, code);
  races::end_group(races::Group::kBulkReads);
  races::Pause pause;
  for (uint32_t i = 0; i < bytes; i += 4) {
    float x;
    memcpy(&x, spkv_emulator::from_shared_address(from + i), 4);
    to[i / 4] += x;
  }
}

inline void wait_for_bulk_reads() {
  spkv_emulator::races::wait_for_groups(spkv_emulator::races::Group::kBulkReads, 0);
}

}  // namespace cuda
}  // namespace spkv
