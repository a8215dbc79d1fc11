// What the copy engine of compute capability 9.0 knows of a tensor [T][heads][D] in bf16: it then copies
// whole tiles of one head to shared memory, in panels of 64 components as in page.cuh. Tokens behind the last
// are 0.
#pragma once

#include <cstdint>

#include "core/status.h"
#include "core/view.h"
#if !defined(SPKV_EMULATED_CUDA)
#include <cuda.h>
#endif

namespace spkv {
namespace cuda {

#if defined(SPKV_EMULATED_CUDA)
struct TensorMap {
  const void* data;
  int64_t tokens, token_stride, head_stride;  // in elements
  int rows, panels;
};
#else
using TensorMap = CUtensorMap;
#endif

// Whether the copy engine takes the tensor as it is: bf16, D a multiple of 64, everything at multiples of 16
// bytes.
bool has_tensor_map(const View& tensor);

// For tiles of `rows` tokens, at most 256.
Status make_tensor_map(TensorMap* map, const View& tensor, int rows);

}  // namespace cuda
}  // namespace spkv
