// cuBLASLt, opened at run time, behind the one product that spkv needs.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>

#include "core/status.h"
#include "core/view.h"

namespace spkv {
namespace cuda {

class Context;

// out [T, N] = base [T, N] + x [T, K] * weight [N, K] transposed, rows `*_stride` elements apart; no size is
// 0, and a stride is at least the length of its row. The order of the sums depends on the shapes alone, and
// where products are timed (see CudaOptions) on which algorithm was the fastest.
struct Product {
  int64_t rows = 0, columns = 0, depth = 0;  // T, N, K
  void* out = nullptr;
  int64_t out_stride = 0;
  DType out_dtype = DType::kF32;
  const void* x = nullptr;
  int64_t x_stride = 0;
  const void* weight = nullptr;
  int64_t weight_stride = 0;
  DType dtype = DType::kBF16;  // of x and weight
  const void* base = nullptr;  // added; may be `out` itself
  int64_t base_stride = 0;
  bool packed = false;  // the weight is from pack_weight: no launch just before this one changes it
  // The operand lies the other way round: x as [K, T], weight as [K, N].
  bool x_by_depth = false, weight_by_depth = false;
};

class MatrixLibrary {
 public:
  virtual ~MatrixLibrary() = default;
  virtual Status multiply(const Product& product, Context& context) = 0;
};

// For the current device. kDevice where no cuBLASLt can be opened; SPKV_CUBLASLT names one to use.
std::unique_ptr<MatrixLibrary> open_matrix_library(Status* status);

}  // namespace cuda
}  // namespace spkv
