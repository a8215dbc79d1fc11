// A row of logits as sampling sees it: what is allowed, after the penalties, in falling order, and as
// probabilities.
#pragma once

#include <cstdint>

#include "cuda/common/reduce.cuh"
#include "ops/sample.h"

namespace spkv {
namespace cuda {

// Ascending keys are falling logits.
__device__ __forceinline__ uint32_t falling_key(float x) {
  const uint32_t bits = __float_as_uint(x + 0.0f);  // -0 equals 0
  return bits & 0x80000000u ? bits : ~bits & 0x7fffffffu;
}
__device__ __forceinline__ float logit_of(uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key : ~key & 0x7fffffffu);
}
constexpr uint32_t kKeysEnd = 0xff800000u;  // the key of minus infinity, which no row has

// A token in falling order, equal logits by id.
__device__ __forceinline__ unsigned long long place_of(float x, int id) {
  return static_cast<unsigned long long>(falling_key(x)) << 32 | static_cast<uint32_t>(id);
}

class RowLogits {
 public:
  __device__ RowLogits(const SampleParams& params, int64_t b)
      : logits_(params.logits.as<const float>() + b * params.logits.stride[0]),
        size_(params.logits.shape[1]) {
    const float* settings = params.settings.as<const float>() + b * params.settings.stride[0];
    repetition_ = settings[kRepetition];
    frequency_ = settings[kFrequency];
    presence_ = settings[kPresence];
    const bool penalties = repetition_ != 1 || frequency_ != 0 || presence_ != 0;
    if (penalties && params.history) {
      history_ = params.history.as<const int32_t>() + b * params.history.stride[0];
    }
    if (params.mask) mask_ = params.mask.as<const uint32_t>() + b * params.mask.stride[0];
  }

  __device__ int size() const { return size_; }
  __device__ float unpenalized(int id) const { return logits_[id]; }
  __device__ __forceinline__ bool allowed(int id) const {
    return mask_ == nullptr || (mask_[id / 32] >> id % 32 & 1) != 0;
  }
  // Asked by the whole block.
  __device__ bool allows_any() const {
    if (mask_ == nullptr) return true;
    int none = 1;
    for (int first = static_cast<int>(threadIdx.x) * 32; first < size_;
         first += static_cast<int>(blockDim.x) * 32) {
      const int past = first + 32 - size_;
      if ((mask_[first / 32] & (past > 0 ? ~0u >> past : ~0u)) != 0) none = 0;
    }
    return block_reduce(none, 1, Least()) == 0;
  }

  // Calls step(id, x) for the allowed ones of the tokens [begin, end).
  template <typename Step>
  __device__ __forceinline__ void for_tokens(int begin, int end, const Step& step) const {
    for_all_tokens(begin, end, [&](int id, float x) {
      if (allowed(id)) step(id, x);
    });
  }

  // The same, allowed or not; the threads of the block share the work, each with several loads under way.
  template <typename Step>
  __device__ __forceinline__ void for_all_tokens(int begin, int end, const Step& step) const {
    constexpr int kLoads = 4;
    const int threads = blockDim.x;
    for (int64_t first = int64_t{begin} + threadIdx.x; first < end; first += threads * kLoads) {
      float x[kLoads];
#pragma unroll
      for (int j = 0; j < kLoads; j++) {
        const int64_t id = first + j * threads;
        x[j] = id < end ? logits_[id] : 0;
      }
      if (history_ != nullptr) {
        int32_t seen[kLoads];
#pragma unroll
        for (int j = 0; j < kLoads; j++) {
          const int64_t id = first + j * threads;
          seen[j] = id < end ? history_[id] : 0;
        }
#pragma unroll
        for (int j = 0; j < kLoads; j++) x[j] = penalize(x[j], seen[j]);
      }
#pragma unroll
      for (int j = 0; j < kLoads; j++) {
        const int64_t id = first + j * threads;
        if (id < end) step(static_cast<int>(id), x[j]);
      }
    }
  }

 private:
  __device__ __forceinline__ float penalize(float x, int32_t seen) const {
    if (seen != 0) x = x > 0 ? x / repetition_ : x * repetition_;
    const int32_t count = seen >> 1;
    x -= frequency_ * static_cast<float>(count);
    return count != 0 ? x - presence_ : x;
  }

  const float* logits_;
  const int32_t* history_ = nullptr;  // null without penalties
  const uint32_t* mask_ = nullptr;    // null where all is allowed
  float repetition_, frequency_, presence_;
  int size_;
};

// Probabilities of a row, relative to that of the largest logit: as integers, whose sums are the same in any
// order. `unit` stands for 1; a whole row of it fits into 63 bits.
struct Softmax {
  static constexpr int kBins = 1024;

  float largest;
  float scale;  // 1 / temperature
  float unit;

  // Distance from the largest in temperatures. Rounding keeps order.
  __device__ __forceinline__ float depth(float x) const { return (largest - x) * scale; }
  __device__ __forceinline__ unsigned long long weight(float x) const {
    return static_cast<unsigned long long>(expf(-depth(x)) * unit);
  }
  // Sixteenths of the depth. Weights are 0 long before the last bin.
  __device__ __forceinline__ int bin(float x) const {
    return static_cast<int>(fminf(depth(x) * 16, static_cast<float>(kBins - 1)));
  }
  // The least key of a bin from this one on.
  __device__ uint32_t first_key(int bin_from) const {
    uint32_t low = falling_key(largest), high = kKeysEnd;
    while (low < high) {
      const uint32_t middle = low + (high - low) / 2;
      if (bin(logit_of(middle)) >= bin_from) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return low;
  }
};

}  // namespace cuda
}  // namespace spkv
