// Documents that are packed one after another: offsets[b] to offsets[b + 1] are the tokens of document b.
#pragma once

#include <cstdint>

namespace spkv {
namespace cuda {

// The end of the document that token t lies in.
__device__ __forceinline__ int32_t document_end(const int32_t* offsets, int documents, int64_t t) {
  int low = 1, high = documents;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (offsets[middle] > t) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return offsets[low];
}

}  // namespace cuda
}  // namespace spkv
