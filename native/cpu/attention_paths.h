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

SPKV_ISA_END
