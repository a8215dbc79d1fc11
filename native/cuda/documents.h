// Documents that are packed one after another: offsets[b] to offsets[b + 1] are the tokens of document b.
#pragma once

#include "core/status.h"

namespace spkv {
namespace cuda {

inline Status check_offsets(const int32_t* offsets, int64_t documents, int64_t tokens) {
  bool rising = offsets[0] == 0 && offsets[documents] == tokens;
  for (int64_t b = 0; b < documents; b++) rising = rising && offsets[b] <= offsets[b + 1];
  if (rising) return Status();
  return fail(Code::kInvalidArgument, "Expected offsets to rise from 0 to %lld, the number of tokens",
              static_cast<long long>(tokens));
}

#if defined(__CUDACC__) || defined(SPKV_EMULATED_CUDA)
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
#endif

}  // namespace cuda
}  // namespace spkv
