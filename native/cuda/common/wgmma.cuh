// The matrix instructions of Hopper, which a warpgroup (four warps, aligned) issues together and which run
// while it goes on:
//
//   d [64, N] (+)= a [64, 16] * b [16, N]        bf16, sums in f32
//
// Operands lie in shared memory, a also in registers. Where the rest of the sizes come from:
//
//   d   register i of thread t is row 16 (t / 32) + t % 32 / 4 + 8 (i / 2 % 2), column 8 (i / 4) + 2 (t % 4)
//   + i % 2 a   in registers: those of multiply_add in ptx.cuh, warp w having rows [16 w, 16 w + 16)
//
// Only code for sm_90a has them; elsewhere they do nothing, and must not be reached.
#pragma once

#include <cstdint>

#include "cuda/common/page.cuh"
#if defined(SPKV_EMULATED_CUDA)
#include <emulator/wgmma.h>
#else

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define SPKV_HOPPER_ONLY(...) __VA_ARGS__
#else
#define SPKV_HOPPER_ONLY(...)
#endif

namespace spkv {
namespace cuda {

// An operand in shared memory, in panels as in page.cuh, which begin at multiples of 1024 bytes.
struct SharedMatrix {
  uint64_t bits;

  // The operand that begins so many bytes further on.
  __device__ __forceinline__ SharedMatrix operator+(uint32_t bytes) const { return {bits + bytes / 16}; }
};

// Rows of 128 bytes are rows of a, or columns of b: 64 numbers each along the sum. The next 16 numbers of the
// sum are 32 bytes on, and after four times in the next panel.
__device__ __forceinline__ SharedMatrix rows_along_sum(uint32_t address) {
  constexpr uint64_t kEightRows = 8 * kRowBytes / 16;
  constexpr uint64_t kSwizzle128 = 1;
  return {(address & 0x3ffff) / 16 | uint64_t{1} << 16 | kEightRows << 32 | kSwizzle128 << 62};
}

// Each row of 128 bytes is one step of the sum, with 64 columns of b; the next 64 are a panel further on. The
// next 16 steps are 16 rows on.
__device__ __forceinline__ SharedMatrix rows_across_sum(uint32_t address, uint32_t panel_bytes) {
  constexpr uint64_t kEightRows = 8 * kRowBytes / 16;
  constexpr uint64_t kSwizzle128 = 1;
  return {(address & 0x3ffff) / 16 | uint64_t{panel_bytes / 16} << 16 | kEightRows << 32 | kSwizzle128 << 62};
}

// Before the first product that uses registers which were written otherwise.
__device__ __forceinline__ void group_begin() {
  SPKV_HOPPER_ONLY(asm volatile("wgmma.fence.sync.aligned;" ::: "memory"));
}

// Ends the batch of the products issued since the last one.
__device__ __forceinline__ void group_end() {
  SPKV_HOPPER_ONLY(asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"));
}

// Returns when at most `newest` batches are still under way.
template <int newest>
__device__ __forceinline__ void group_wait() {
  SPKV_HOPPER_ONLY(asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(newest) : "memory"));
}

// Keeps what is done with registers on its side of a wait, of which the compiler does not know that it is
// about them.
template <int count>
__device__ __forceinline__ void hold(float (&d)[count]) {
#pragma unroll
  for (int i = 0; i < count; i++) asm volatile("" : "+f"(d[i])::"memory");
}

// Makes what this thread has stored to shared memory visible to the matrix instructions and the copy engine.
__device__ __forceinline__ void publish_shared() {
  SPKV_HOPPER_ONLY(asm volatile("fence.proxy.async.shared::cta;" ::: "memory"));
}

// How many registers each thread of the warpgroup has from here on.
template <int count>
__device__ __forceinline__ void take_registers() {
  SPKV_HOPPER_ONLY(asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count)));
}
template <int count>
__device__ __forceinline__ void leave_registers() {
  SPKV_HOPPER_ONLY(asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count)));
}

// d = a * b if not `add`. With kTransposedB, b is rows_across_sum; with kTransposedA, a is. N is twice the
// length of d.

template <bool kTransposedB, bool kTransposedA = false>
__device__ __forceinline__ void group_multiply_add(float (&d)[32], SharedMatrix a, SharedMatrix b, bool add) {
  SPKV_HOPPER_ONLY(asm volatile(
      "{\n"
      ".reg .pred add;\n"
      "setp.ne.b32 add, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "%32, %33, add, 1, 1, %36, %35;\n"
      "}\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
        "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
        "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]),
        "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
        "+f"(d[30]), "+f"(d[31])
      : "l"(a.bits), "l"(b.bits), "r"(int{add}), "n"(int{kTransposedB}), "n"(int{kTransposedA})));
}

template <bool kTransposedB>
__device__ __forceinline__ void group_multiply_add(float (&d)[64], SharedMatrix a, SharedMatrix b, bool add) {
  SPKV_HOPPER_ONLY(asm volatile(
      "{\n"
      ".reg .pred add;\n"
      "setp.ne.b32 add, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "%64, %65, add, 1, 1, 0, %67;\n"
      "}\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
        "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
        "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]),
        "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
        "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]),
        "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]),
        "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]), "+f"(d[50]),
        "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]),
        "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
      : "l"(a.bits), "l"(b.bits), "r"(int{add}), "n"(int{kTransposedB})));
}

template <bool kTransposedB>
__device__ __forceinline__ void group_multiply_add(float (&d)[32], const uint32_t (&a)[4], SharedMatrix b,
                                                   bool add) {
  SPKV_HOPPER_ONLY(asm volatile(
      "{\n"
      ".reg .pred add;\n"
      "setp.ne.b32 add, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "{%32, %33, %34, %35}, %36, add, 1, 1, %38;\n"
      "}\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
        "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
        "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]),
        "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
        "+f"(d[30]), "+f"(d[31])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b.bits), "r"(int{add}), "n"(int{kTransposedB})));
}

template <bool kTransposedB>
__device__ __forceinline__ void group_multiply_add(float (&d)[64], const uint32_t (&a)[4], SharedMatrix b,
                                                   bool add) {
  SPKV_HOPPER_ONLY(asm volatile(
      "{\n"
      ".reg .pred add;\n"
      "setp.ne.b32 add, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "{%64, %65, %66, %67}, %68, add, 1, 1, %70;\n"
      "}\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
        "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
        "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]),
        "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
        "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]),
        "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]),
        "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]), "+f"(d[50]),
        "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]),
        "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b.bits), "r"(int{add}), "n"(int{kTransposedB})));
}

}  // namespace cuda
}  // namespace spkv

#endif
