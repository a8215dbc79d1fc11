// The page of the CUDA cache: 64 slots of one (layer, KV head), the keys and then the values, in bf16 or fp8.
//
// A panel holds 64 components of all slots, one slot per row of 128 bytes:
//
//   D = 128:   keys 0..63 | keys 64..127 | values 0..63 | values 64..127      4 panels, 32 KiB
//   D = 64:    keys 0..63 | values 0..63                                      2 panels, 16 KiB
//
//   panel      slot 0   chunk 0 1 2 3 4 5 6 7      a chunk is 16 bytes, 8 components
//              slot 1   chunk 1 0 3 2 5 4 7 6      chunk c of row r lies at place c ^ (r & 7)
//              ...
//
// This is the image that shared memory needs: rows of 8 equal chunks lie in 8 different groups of banks, and
// it is the 128-byte swizzle of wgmma as well. So a page is copied as it is, and rows [0, n) of a panel are
// contiguous. Pages are aligned to 1024 bytes. Nobody else knows the swizzle.
//
// In fp8 (core/fp8.h) a panel has 128 components of a slot in a row, and a chunk 16. Behind the panels are
// the scales, a byte per slot. Pages are aligned to 128 bytes:
//
//   D = 128:   keys | values | scales of the keys | scales of the values      16.125 KiB
//   D = 64:    keys and values, chunks 0..3 and 4..7 of every row | scales     8.125 KiB
//
// Whatever the dtype, chunk c of a slot's value is the one that comes behind all those of its key.
#pragma once

#include <cstdint>

namespace spkv {
namespace cuda {

constexpr int kPageSlots = 64;
constexpr int kRowBytes = 128;
constexpr int kPanelBytes = kPageSlots * kRowBytes;
constexpr int kPanelDims = 64;
constexpr int kChunkBytes = 16;
constexpr int kChunkDims = 8;

__host__ __device__ constexpr int panels(int head_dim) { return head_dim / kPanelDims; }
__host__ __device__ constexpr int page_bytes(int head_dim) { return 2 * panels(head_dim) * kPanelBytes; }

// Where in a panel chunk `chunk` of row `row` lies.
__host__ __device__ constexpr int swizzled(int row, int chunk) {
  return row * kRowBytes + ((chunk ^ (row & 7)) * kChunkBytes);
}

// Where in a page a chunk of a slot lies: first those of its key, then those of its value, which in bf16 are
// `values_offset` further on.
__host__ __device__ constexpr int chunk_offset(int slot, int chunk) {
  return chunk / 8 * kPanelBytes + swizzled(slot, chunk % 8);
}
__host__ __device__ constexpr int values_offset(int head_dim) { return panels(head_dim) * kPanelBytes; }

constexpr int kFp8ChunkDims = 16;

__host__ __device__ constexpr int fp8_scales_offset(int head_dim) { return panels(head_dim) * kPanelBytes; }
__host__ __device__ constexpr int fp8_page_bytes(int head_dim) {
  return fp8_scales_offset(head_dim) + 2 * kPageSlots;
}

}  // namespace cuda
}  // namespace spkv
