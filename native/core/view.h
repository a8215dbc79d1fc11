// What a kernel sees of a tensor: a typed pointer with shape and strides. Owns nothing.
#pragma once

#include <cstdint>

namespace spkv {

// kFP8 is a dtype of caches only, where a row has a scale beside its elements: see core/fp8.h.
enum class DType : int32_t { kF32 = 0, kBF16 = 1, kI32 = 2, kU8 = 3, kFP8 = 4 };

// Always inlined: see cpu/isa.h. Kernels call these functions, too.
#if defined(__CUDACC__)
#define SPKV_INLINE __host__ __device__ inline __attribute__((always_inline))
#else
#define SPKV_INLINE inline __attribute__((always_inline))
#endif

SPKV_INLINE int64_t dtype_bytes(DType dtype) {
  return dtype == DType::kBF16 ? 2 : dtype == DType::kU8 || dtype == DType::kFP8 ? 1 : 4;
}

SPKV_INLINE const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "f32";
    case DType::kBF16:
      return "bf16";
    case DType::kI32:
      return "i32";
    case DType::kU8:
      return "u8";
    case DType::kFP8:
      return "fp8";
  }
  return "?";
}

// How the elements lie in memory. Packed weights have the order that the device's matrix product likes best;
// only `matmul` may read them.
enum class Layout : int32_t { kStrided = 0, kPacked = 1 };

struct View {
  static constexpr int kMaxRank = 4;

  void* data = nullptr;  // null stands for an optional tensor that is absent
  DType dtype = DType::kF32;
  Layout layout = Layout::kStrided;
  int rank = 0;
  int64_t shape[kMaxRank] = {1, 1, 1, 1};
  int64_t stride[kMaxRank] = {1, 1, 1, 1};  // in elements; the last one is always 1

  SPKV_INLINE explicit operator bool() const { return data != nullptr; }

  template <typename T>
  SPKV_INLINE T* as() const {
    return static_cast<T*>(data);
  }

  SPKV_INLINE int64_t size() const {
    int64_t count = 1;
    for (int i = 0; i < rank; i++) count *= shape[i];
    return count;
  }

  // The sub-tensor at `index` of the first dimension.
  SPKV_INLINE View at(int64_t index) const {
    View view = *this;
    view.data = static_cast<char*>(data) + index * stride[0] * dtype_bytes(dtype);
    view.rank = rank - 1;
    for (int i = 0; i + 1 < rank; i++) {
      view.shape[i] = shape[i + 1];
      view.stride[i] = stride[i + 1];
    }
    return view;
  }
};

}  // namespace spkv
