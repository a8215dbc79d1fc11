// The parts of decode_test.
#pragma once

#include <string>

#include "core/view.h"

namespace spkv_test {

// Counts a check, and says so if it failed.
void expect(bool good, const std::string& what);

// Whole decode steps, from an empty cache.
void steps_test(bool quick, spkv::DType dtype);

// The matrix instructions of Hopper, one layout of operands at a time.
void matrix_test();

// Steps with several new tokens per sequence, on caches filled by hand.
void prefill_test(bool quick, spkv::DType dtype);

// Gated attention, forward and backward.
void gated_test(bool quick);

}  // namespace spkv_test
