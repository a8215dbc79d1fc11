// Sources of this directory with SPKV_ISA_BEGIN are compiled once per instruction set, each time into a
// namespace of its own; the widest one that the processor has is chosen at run time (see device.cc).
//
//   #include "cpu/isa.h"
//   SPKV_ISA_BEGIN
//   Status rms_norm(const RmsNormParams& params, Execution& execution) { ... }
//   SPKV_ISA_END
//
// Rule: nothing in these sources may instantiate an inline function or template outside of its namespace (no
// std::vector, no std::function, no std::string). The linker keeps only one copy of such a function, and it
// could be the one with AVX-512 instructions on a machine that has none. test/native/isa.test.ts checks it.
#pragma once

#include <cstdint>

#include "core/status.h"
#include "core/thread_pool.h"
#include "core/view.h"
#include "ops/operations.h"

#ifndef SPKV_ISA
#error "SPKV_ISA must name the instruction set: portable, avx2 or avx512"
#endif

#define SPKV_ISA_BEGIN \
  namespace spkv {     \
  namespace cpu {      \
  namespace SPKV_ISA {
#define SPKV_ISA_END \
  }                  \
  }                  \
  }

SPKV_ISA_BEGIN

// Every operation of the table, as this instruction set has it.
#define SPKV_DECLARE(name, Params) Status name(const Params& params, Execution& execution);
SPKV_OPERATIONS(SPKV_DECLARE)
#undef SPKV_DECLARE

// Calls body(item, thread) for every item in [0, items), over the threads of the pool.
template <typename Body>
inline void parallel(Execution& execution, int64_t items, const Body& body) {
  execution.pool->run(
      items,
      [](void* context, int64_t item, int thread) { (*static_cast<const Body*>(context))(item, thread); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
template <typename T>
inline T smaller(T a, T b) {
  return a < b ? a : b;
}
template <typename T>
inline T larger(T a, T b) {
  return a > b ? a : b;
}

SPKV_ISA_END
