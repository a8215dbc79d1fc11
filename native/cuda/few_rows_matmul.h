// Matrix products with at most 16 rows, as decode steps have: the time is that of reading the weight once.
// For compute capability 9.0; what it does not take is cuBLASLt's.
//
// Every output is summed over k in an order that depends on the depth alone, so a token's result does not
// depend on what else is in the batch.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/context.h"
#include "cuda/matrix_library.h"

namespace spkv {
namespace cuda {

// bf16, at most 16 rows, depths in multiples of 512, rows of x and of the weight aligned to 16 bytes.
bool few_rows_takes(const Product& product, const Context& context);
cudaError_t multiply_few_rows(const Product& product, const Context& context);

}  // namespace cuda
}  // namespace spkv
