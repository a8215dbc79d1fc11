#include "core/step_checks.h"

namespace spkv {

Status check_offsets(const int32_t* offsets, int64_t documents, int64_t tokens) {
  bool rising = offsets[0] == 0 && offsets[documents] == tokens;
  for (int64_t b = 0; b < documents; b++) rising = rising && offsets[b] <= offsets[b + 1];
  if (rising) return Status();
  return fail(Code::kInvalidArgument, "Expected offsets to rise from 0 to %lld, the number of tokens",
              static_cast<long long>(tokens));
}

Status target_out_of_range(int64_t t, int32_t target, int64_t vocabulary) {
  return fail(Code::kOutOfRange, "Expected an id below %lld for targets[%lld] but received %d",
              static_cast<long long>(vocabulary), static_cast<long long>(t), target);
}

Status check_targets(const int32_t* targets, int64_t stride, int64_t tokens, int64_t vocabulary) {
  for (int64_t t = 0; t < tokens; t++) {
    if (targets[t * stride] >= vocabulary) return target_out_of_range(t, targets[t * stride], vocabulary);
  }
  return Status();
}

Status logit_not_finite(int64_t row, int64_t column, float logit) {
  return fail(Code::kNonFinite, "Expected finite logits but received %g for logits[%lld, %lld]",
              static_cast<double>(logit), static_cast<long long>(row), static_cast<long long>(column));
}

}  // namespace spkv
