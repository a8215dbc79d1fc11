// Loops over the elements of a row, several to a thread. Which thread has which elements depends on their
// number alone, not on how they lie in memory: a sum has the same bits wherever its row starts.
//
// bf16 is uint16_t, as on the CPU.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "core/view.h"

namespace spkv {
namespace cuda {

// Whether every row of the view starts at a multiple of `elements` elements, so that so many can be loaded at
// once.
inline bool starts_aligned(const View& view, int elements) {
  if (reinterpret_cast<uintptr_t>(view.data) % static_cast<uintptr_t>(elements * dtype_bytes(view.dtype)) !=
      0)
    return false;
  for (int i = 0; i + 1 < view.rank; i++) {
    if (view.shape[i] > 1 && view.stride[i] % elements != 0) return false;
  }
  return true;
}

// The least power of two, from a warp up to `most`, that gives each of the items a thread.
inline unsigned threads_for(int64_t items, unsigned most) {
  unsigned threads = 32;
  while (threads < most && threads < items) threads *= 2;
  return threads;
}

template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
  T at[N];
};

template <typename To, typename From>
struct Convert {
  static __device__ __forceinline__ To apply(From x) { return x; }
};
template <>
struct Convert<float, uint16_t> {
  static __device__ __forceinline__ float apply(uint16_t x) { return __uint_as_float(uint32_t{x} << 16); }
};
template <>
struct Convert<uint16_t, float> {
  static __device__ __forceinline__ uint16_t apply(float x) {
    return __bfloat16_as_ushort(__float2bfloat16_rn(x));
  }
};

// How many elements a step of for_elements has, and whether they are aligned.
template <int N>
struct Elements {
  bool aligned;
};

template <int N, typename T>
__device__ __forceinline__ Pack<T, N> load(const T* p, Elements<N> elements) {
  if (elements.aligned) return *reinterpret_cast<const Pack<T, N>*>(p);
  Pack<T, N> pack;
#pragma unroll
  for (int j = 0; j < N; j++) pack.at[j] = p[j];
  return pack;
}

template <int N, typename T>
__device__ __forceinline__ void store(T* p, Pack<T, N> pack, Elements<N> elements) {
  if (elements.aligned) {
    *reinterpret_cast<Pack<T, N>*>(p) = pack;
    return;
  }
#pragma unroll
  for (int j = 0; j < N; j++) p[j] = pack.at[j];
}

template <typename To, typename From, int N>
__device__ __forceinline__ Pack<To, N> convert(Pack<From, N> x) {
  Pack<To, N> out;
#pragma unroll
  for (int j = 0; j < N; j++) out.at[j] = Convert<To, From>::apply(x.at[j]);
  return out;
}

template <int N, typename T>
__device__ __forceinline__ Pack<float, N> load_floats(const T* p, Elements<N> elements) {
  return convert<float>(load(p, elements));
}

// Calls step(i, elements) for the elements [i, i + N) of [0, n), or the one at i where fewer than N are left.
// The threads of the block, or of its x dimension, share the work; `aligned` says whether i = 0 is aligned in
// all that the step touches.
template <int N, typename Step>
__device__ __forceinline__ void for_elements(int64_t n, bool aligned, const Step& step) {
  for (int64_t i = int64_t{threadIdx.x} * N; i < n; i += int64_t{blockDim.x} * N) {
    if (i + N <= n) {
      step(i, Elements<N>{aligned});
    } else {
      for (int64_t j = i; j < n; j++) step(j, Elements<1>{true});
    }
  }
}

}  // namespace cuda
}  // namespace spkv
