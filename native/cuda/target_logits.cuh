// What the operations share that look for a target among the logits of a row: a block to a row.
#pragma once

#include <string>

#include "core/step_checks.h"
#include "cuda/common/elements.cuh"
#include "cuda/common/fault.cuh"
#include "cuda/common/launch.cuh"
#include "cuda/common/reduce.cuh"
#include "cuda/context.h"

namespace spkv {
namespace cuda {

constexpr unsigned kMostRowThreads = 512;
constexpr int kLogitsWidth = 4;  // logits that a thread loads at once

// The largest logit of a row, and the sum of exp(x - largest).
struct RowTotal {
  float largest;
  double total;
};

// For all threads of the block. The exponentials of a thread are added in double: a row has up to hundreds of
// thousands.
template <typename T>
__device__ __forceinline__ RowTotal row_total(const T* row, int64_t vocabulary, bool aligned) {
  float largest = -INFINITY;
  for_elements<kLogitsWidth>(vocabulary, aligned, [&](int64_t i, auto elements) {
    for (float x : load_floats(row + i, elements).at) largest = fmaxf(largest, x);
  });
  largest = block_reduce(largest, -INFINITY, Largest());
  double total = 0;
  for_elements<kLogitsWidth>(vocabulary, aligned, [&](int64_t i, auto elements) {
    float sum = 0;
    for (float x : load_floats(row + i, elements).at) sum += expf(x - largest);
    total += static_cast<double>(sum);
  });
  return {largest, block_reduce(total, 0.0, Sum())};
}

inline LaunchShape a_block_to_a_row(int64_t rows, int64_t vocabulary) {
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(rows));
  shape.block = dim3(threads_for(blocks_for(vocabulary, kLogitsWidth), kMostRowThreads));
  return shape;
}

// Where the kernels of `operation` report a target that is no id.
inline int target_fault_site(Context& on, const char* operation, int64_t vocabulary) {
  return on.fault_site(std::string(operation) + " targets below " + std::to_string(vocabulary),
                       [vocabulary](int64_t t, uint32_t target) {
                         return target_out_of_range(t, static_cast<int32_t>(target), vocabulary);
                       });
}

}  // namespace cuda
}  // namespace spkv
