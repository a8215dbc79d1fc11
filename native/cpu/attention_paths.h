// The two ways of cpu/attention.cc: one new token per sequence, and many.
#pragma once

#include "cpu/cache.h"
#include "cpu/isa.h"
#include "cpu/scratch.h"

SPKV_ISA_BEGIN

// Sequences of the step with exactly one new token.
Status attention_decode(const AttentionParams& params, Execution& execution);
// Sequences with more than one.
Status attention_chunk(const AttentionParams& params, Execution& execution);

// Hands out pieces of one scratch buffer: first with a null base to learn the size, then for real.
struct Carver {
  char* base;
  int64_t used = 0;

  template <typename T>
  SPKV_INLINE T* take(int64_t count) {
    T* piece = base ? reinterpret_cast<T*>(base + used) : nullptr;
    used += (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
    return piece;
  }
};

SPKV_INLINE Status no_scratch(int64_t bytes) {
  return fail(Code::kOutOfMemory, "No %lld bytes for intermediate results", static_cast<long long>(bytes));
}

SPKV_ISA_END
