// The functions that CUDA C++ gives to device code, as far as the kernels use them.
#pragma once

#include <math.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "emulator/block.h"
#include "emulator/races.h"

// --- Waiting.

inline void __syncthreads() { spkv_emulator::block_barrier("__syncthreads", 0, 0); }
inline void __syncwarp(unsigned mask = ~0u) {
  spkv_emulator::meet("__syncwarp", mask, nullptr, [](void* const*) {}, true);
}
inline void __threadfence() { spkv_emulator::races::fence(spkv_emulator::races::Scope::kDevice); }
inline void __threadfence_block() { spkv_emulator::races::fence(spkv_emulator::races::Scope::kBlock); }
inline void __threadfence_system() { __threadfence(); }
inline void __nanosleep(unsigned) {}
inline unsigned __activemask() { return spkv_emulator::live_lanes(); }

// --- Collectives of a warp.

namespace spkv_emulator {

template <typename T>
struct Shuffle {
  T value, result;
  int source;
};

template <typename T>
T shuffle(const char* what, unsigned mask, T value, int source) {
  Shuffle<T> mine = {value, value, source};
  meet(what, mask, &mine, [](void* const* records) {
    for (int i = 0; i < 32; i++) {
      auto* record = static_cast<Shuffle<T>*>(records[i]);
      if (!record) continue;
      auto* from = static_cast<Shuffle<T>*>(records[record->source]);
      if (from) {
        record->result = from->value;
      } else {
        memset(static_cast<void*>(&record->result), 0xff, sizeof(T));  // undefined on the device
      }
    }
  });
  return mine.result;
}

// All lanes get what `combine` makes of the values of all, in the order of the lanes.
template <typename T, T (*combine)(T, T)>
T reduce(const char* what, unsigned mask, T value) {
  meet(what, mask, &value, [](void* const* records) {
    T all{};
    bool any = false;
    for (int i = 0; i < 32; i++) {
      if (!records[i]) continue;
      T next = *static_cast<T*>(records[i]);
      all = any ? combine(all, next) : next;
      any = true;
    }
    for (int i = 0; i < 32; i++)
      if (records[i]) *static_cast<T*>(records[i]) = all;
  });
  return value;
}

template <typename T>
T add_of(T a, T b) {
  return a + b;
}
template <typename T>
T least_of(T a, T b) {
  return a < b ? a : b;
}
template <typename T>
T greatest_of(T a, T b) {
  return a < b ? b : a;
}
template <typename T>
T and_of(T a, T b) {
  return a & b;
}
template <typename T>
T or_of(T a, T b) {
  return a | b;
}
template <typename T>
T xor_of(T a, T b) {
  return a ^ b;
}

// The lane to take from; outside of the group of `width` lanes it is the lane itself.
inline int from_lane(int source, int width) {
  int first = lane() / width * width;
  return source >= first && source < first + width ? source : lane();
}

}  // namespace spkv_emulator

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  int first = spkv_emulator::lane() / width * width;
  return spkv_emulator::shuffle("__shfl_sync", mask, value, first + (source & (width - 1)));
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  int source = spkv_emulator::from_lane(spkv_emulator::lane() - static_cast<int>(delta), width);
  return spkv_emulator::shuffle("__shfl_up_sync", mask, value, source);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  int source = spkv_emulator::from_lane(spkv_emulator::lane() + static_cast<int>(delta), width);
  return spkv_emulator::shuffle("__shfl_down_sync", mask, value, source);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
  int source = spkv_emulator::from_lane(spkv_emulator::lane() ^ lanes, width);
  return spkv_emulator::shuffle("__shfl_xor_sync", mask, value, source);
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  unsigned bit = predicate ? 1u << spkv_emulator::lane() : 0;
  return spkv_emulator::reduce<unsigned, spkv_emulator::or_of>("__ballot_sync", mask, bit);
}
inline int __any_sync(unsigned mask, int predicate) {
  return spkv_emulator::reduce<int, spkv_emulator::or_of>("__any_sync", mask, predicate != 0);
}
inline int __all_sync(unsigned mask, int predicate) {
  return spkv_emulator::reduce<int, spkv_emulator::and_of>("__all_sync", mask, predicate != 0);
}

#define SPKV_REDUCE(T)                                                                             \
  inline T __reduce_add_sync(unsigned mask, T value) {                                             \
    return spkv_emulator::reduce<T, spkv_emulator::add_of>("__reduce_add_sync", mask, value);      \
  }                                                                                                \
  inline T __reduce_min_sync(unsigned mask, T value) {                                             \
    return spkv_emulator::reduce<T, spkv_emulator::least_of>("__reduce_min_sync", mask, value);    \
  }                                                                                                \
  inline T __reduce_max_sync(unsigned mask, T value) {                                             \
    return spkv_emulator::reduce<T, spkv_emulator::greatest_of>("__reduce_max_sync", mask, value); \
  }
SPKV_REDUCE(int)
SPKV_REDUCE(unsigned)
#undef SPKV_REDUCE
inline unsigned __reduce_and_sync(unsigned mask, unsigned value) {
  return spkv_emulator::reduce<unsigned, spkv_emulator::and_of>("__reduce_and_sync", mask, value);
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value) {
  return spkv_emulator::reduce<unsigned, spkv_emulator::or_of>("__reduce_or_sync", mask, value);
}
inline unsigned __reduce_xor_sync(unsigned mask, unsigned value) {
  return spkv_emulator::reduce<unsigned, spkv_emulator::xor_of>("__reduce_xor_sync", mask, value);
}

// --- Atomics: one host thread runs all threads of a kernel.

template <typename T>
T atomicAdd(T* at, std::common_type_t<T> value) {
  spkv_emulator::races::AtomicAccess atomic(at, sizeof(T));
  T before = *at;
  *at = before + value;
  return before;
}
template <typename T>
T atomicSub(T* at, std::common_type_t<T> value) {
  spkv_emulator::races::AtomicAccess atomic(at, sizeof(T));
  T before = *at;
  *at = before - value;
  return before;
}
template <typename T>
T atomicMin(T* at, std::common_type_t<T> value) {
  spkv_emulator::races::AtomicAccess atomic(at, sizeof(T));
  T before = *at;
  if (value < before) *at = value;
  return before;
}
template <typename T>
T atomicMax(T* at, std::common_type_t<T> value) {
  spkv_emulator::races::AtomicAccess atomic(at, sizeof(T));
  T before = *at;
  if (before < value) *at = value;
  return before;
}
template <typename T>
T atomicAnd(T* at, std::common_type_t<T> value) {
  spkv_emulator::races::AtomicAccess atomic(at, sizeof(T));
  T before = *at;
  *at = before & value;
  return before;
}
template <typename T>
T atomicOr(T* at, std::common_type_t<T> value) {
  spkv_emulator::races::AtomicAccess atomic(at, sizeof(T));
  T before = *at;
  *at = before | value;
  return before;
}
template <typename T>
T atomicXor(T* at, std::common_type_t<T> value) {
  spkv_emulator::races::AtomicAccess atomic(at, sizeof(T));
  T before = *at;
  *at = before ^ value;
  return before;
}
template <typename T>
T atomicExch(T* at, std::common_type_t<T> value) {
  spkv_emulator::races::AtomicAccess atomic(at, sizeof(T));
  T before = *at;
  *at = value;
  return before;
}
template <typename T>
T atomicCAS(T* at, std::common_type_t<T> expected, std::common_type_t<T> value) {
  spkv_emulator::races::AtomicAccess atomic(at, sizeof(T));
  T before = *at;
  if (before == expected) *at = value;
  return before;
}

// --- Barriers of a block that count.

inline int __syncthreads_count(int predicate) {
  static int count;  // of the block that runs
  __syncthreads();   // the count of the call before has been read
  if (threadIdx.x + threadIdx.y + threadIdx.z == 0) count = 0;
  __syncthreads();
  atomicAdd(&count, predicate != 0);
  __syncthreads();
  return count;
}
inline int __syncthreads_or(int predicate) { return __syncthreads_count(predicate) > 0; }
inline int __syncthreads_and(int predicate) { return __syncthreads_count(!predicate) == 0; }

// --- Memory with a hint of how it is cached.

template <typename T>
T __ldg(const T* at) {
  return *at;
}
template <typename T>
T __ldcg(const T* at) {
  return *at;
}
template <typename T>
T __ldcs(const T* at) {
  return *at;
}
template <typename T>
T __ldca(const T* at) {
  return *at;
}
template <typename T>
void __stcg(T* at, std::common_type_t<T> value) {
  *at = value;
}
template <typename T>
void __stcs(T* at, std::common_type_t<T> value) {
  *at = value;
}
template <typename T>
void __stwt(T* at, std::common_type_t<T> value) {
  *at = value;
}

// --- Bits.

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x)); }
inline unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (int i = 0; i < 32; i++) reversed |= (x >> i & 1) << (31 - i);
  return reversed;
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<unsigned long long>(a) * b >> 32);
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}

namespace spkv_emulator {
template <typename To, typename From>
To same_bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}
}  // namespace spkv_emulator

inline unsigned __float_as_uint(float x) { return spkv_emulator::same_bits<unsigned>(x); }
inline int __float_as_int(float x) { return spkv_emulator::same_bits<int>(x); }
inline float __uint_as_float(unsigned x) { return spkv_emulator::same_bits<float>(x); }
inline float __int_as_float(int x) { return spkv_emulator::same_bits<float>(x); }
inline long long __double_as_longlong(double x) { return spkv_emulator::same_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return spkv_emulator::same_bits<double>(x); }

// --- Arithmetic. The fast forms are the exact ones here. glibc declares functions of some of these names,
// but does not have them.

#define __expf(x) expf(x)
#define __exp10f(x) exp10f(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __log10f(x) log10f(x)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __powf(x, y) powf(x, y)
#define __fdividef(x, y) ((x) / (y))

inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline float __frcp_rn(float x) { return 1 / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frsqrt_rn(float x) { return 1 / sqrtf(x); }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1) : 0; }
inline int __float2int_rn(float x) { return static_cast<int>(rintf(x)); }
inline int __float2int_rd(float x) { return static_cast<int>(floorf(x)); }

// As on the device, a NaN loses against a number.
template <typename A, typename B,
          typename = std::enable_if_t<std::is_arithmetic<A>::value && std::is_arithmetic<B>::value>>
constexpr std::common_type_t<A, B> min(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point<T>::value) return fmin(static_cast<T>(a), static_cast<T>(b));
  return static_cast<T>(b) < static_cast<T>(a) ? static_cast<T>(b) : static_cast<T>(a);
}
template <typename A, typename B,
          typename = std::enable_if_t<std::is_arithmetic<A>::value && std::is_arithmetic<B>::value>>
constexpr std::common_type_t<A, B> max(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point<T>::value) return fmax(static_cast<T>(a), static_cast<T>(b));
  return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(b) : static_cast<T>(a);
}

inline long long clock64() {
  static long long ticks = 0;
  spkv_emulator::races::Pause pause;
  return ++ticks;
}
