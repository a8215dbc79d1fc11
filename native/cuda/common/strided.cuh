// Tensors of any strides, as kernels index them that go through all elements in one order.
#pragma once

#include <cstdint>

#include "core/view.h"

namespace spkv {
namespace cuda {

// Makes one dimension of the last ones that are contiguous in both views, which have the same shape.
inline void merge_contiguous(View* a, View* b) {
  int outer = a->rank;
  int64_t columns = 1;
  while (outer > 0 && a->stride[outer - 1] == columns && b->stride[outer - 1] == columns) {
    columns *= a->shape[--outer];
  }
  for (View* view : {a, b}) {
    view->rank = outer + 1;
    view->shape[outer] = columns;
    view->stride[outer] = 1;
  }
}

struct Strided {
  void* data;
  int rank;
  int64_t shape[View::kMaxRank], stride[View::kMaxRank];

  explicit Strided(const View& view) : data(view.data), rank(view.rank) {
    for (int i = 0; i < View::kMaxRank; i++) {
      shape[i] = view.shape[i];
      stride[i] = view.stride[i];
    }
  }

  // Where the element is that has this index in row-major order.
  __device__ __forceinline__ int64_t offset(int64_t index) const {
    int64_t offset = 0;
#pragma unroll
    for (int i = View::kMaxRank - 1; i > 0; i--) {
      if (i >= rank) continue;
      offset += index % shape[i] * stride[i];
      index /= shape[i];
    }
    return offset + index * stride[0];
  }
};

}  // namespace cuda
}  // namespace spkv
