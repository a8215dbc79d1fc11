// The new pairs of a step as the kernels of insertion see them, and the check that all their numbers are
// finite.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/cache_state.h"
#include "cuda/common/fault.cuh"
#include "ops/insert.h"

namespace spkv {
namespace cuda {

// One of them.
struct NewPair {
  const float *key, *value;  // [D]
  const uint8_t* scales;     // of the key and of the value, in fp8
  bool aligned;              // as NewPairs::aligned
};

struct NewPairs {
  const float* keys = nullptr;       // [L, T, G, D]
  const float* values = nullptr;     // [L, T, G, D]
  const float* utilities = nullptr;  // [L, T, G], or null: everything is kept
  int32_t layers = 0, tokens = 0, kv_heads = 0, head_dim = 0;
  int64_t key_stride[3] = {}, value_stride[3] = {}, utility_stride[3] = {};  // of L, T and G, in elements
  bool aligned = false;       // every row of keys and values starts at a multiple of 16 bytes
  uint8_t* scales = nullptr;  // [L, T, G, 2] for an fp8 cache: `check_pairs` fills it

  NewPairs() = default;
  NewPairs(const View& keys, const View& values, const View& utilities);

#if defined(__CUDACC__) || defined(SPKV_EMULATED_CUDA)
  __device__ const float* key(int layer, int token, int head) const {
    return keys + layer * key_stride[0] + token * key_stride[1] + head * key_stride[2];
  }
  __device__ const float* value(int layer, int token, int head) const {
    return values + layer * value_stride[0] + token * value_stride[1] + head * value_stride[2];
  }
  __device__ int64_t row(int layer, int token, int head) const {
    return (int64_t{layer} * tokens + token) * kv_heads + head;
  }
  __device__ NewPair pair(int layer, int token, int head) const {
    return {key(layer, token, head), value(layer, token, head), scales + 2 * row(layer, token, head),
            aligned};
  }
  __device__ bool kept(int layer, int token, int head, float threshold) const {
    return !utilities ||
           utilities[layer * utility_stride[0] + token * utility_stride[1] + head * utility_stride[2]] >=
               threshold;
  }
#endif
};

// How an insertion says that it failed.
struct InsertFaults {
  Fault* fault = nullptr;
  int non_finite = 0;  // site; index layer * 3 + (0 key, 1 value, 2 utility), value the dtype of the cache
  int exhausted = 0;   // site; value the number of the cache, see CacheState::shortage
  uint32_t cache = 0;  // that number
};

// Raises `non_finite` for a number that is not finite as the cache will hold it, and finds the scales of fp8.
cudaError_t check_pairs(const NewPairs& pairs, DType dtype, const InsertFaults& faults, cudaStream_t stream);

}  // namespace cuda
}  // namespace spkv
