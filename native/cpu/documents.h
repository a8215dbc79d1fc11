// Documents that are packed one after another: offsets[b] to offsets[b + 1] are the tokens of document b.
#pragma once

#include "cpu/isa.h"

SPKV_ISA_BEGIN

inline Status check_offsets(const View& offsets, int64_t tokens) {
  const int32_t* offset = offsets.as<int32_t>();
  const int64_t documents = offsets.shape[0] - 1;
  bool rising = offset[0] == 0 && offset[documents] == tokens;
  for (int64_t b = 0; b < documents; b++) rising = rising && offset[b] <= offset[b + 1];
  if (rising) return Status();
  return fail(Code::kInvalidArgument, "Expected offsets to rise from 0 to %lld, the number of tokens",
              static_cast<long long>(tokens));
}

SPKV_ISA_END
