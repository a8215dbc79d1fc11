// Rows from one place to another, and from one element type to another.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/view.h"

namespace spkv {
namespace cuda {

// A matrix [rows, columns] whose rows are `stride` elements apart; f32 or bf16.
struct Rows {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t stride = 0;
};

// to = from, rounded to nearest even where `to` is bf16. Rows of `from` may overlap, with stride 0 for one
// row that stands for all; they must not overlap those of `to`.
cudaError_t convert_rows(const Rows& to, const Rows& from, int64_t rows, int64_t columns,
                         cudaStream_t stream);

// Three bf16 matrices, `distance` elements apart, whose sum is `from` (f32): each holds what the ones before
// it have left over.
cudaError_t split_rows(const Rows& to, int64_t distance, const Rows& from, int64_t rows, int64_t columns,
                       cudaStream_t stream);

}  // namespace cuda
}  // namespace spkv
