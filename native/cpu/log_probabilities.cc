#include "ops/log_probabilities.h"

#include "core/step_checks.h"
#include "cpu/logits.h"
#include "cpu/rows.h"
#include "cpu/simd.h"

SPKV_ISA_BEGIN
namespace {

double log_probability(const float* row, int64_t n, int32_t target) {
  const float largest = find_peak(row, n).value;
  const double total = sum_exponentials(row, n, largest, [](int64_t, vf, auto) {});
  return static_cast<double>(row[target]) - largest - __builtin_log(total);
}

}  // namespace

Status log_probabilities(const LogProbabilitiesParams& params, Execution& execution) {
  const View &out = params.out, &logits = params.logits;
  const int64_t tokens = logits.shape[0], vocabulary = logits.shape[1];
  const int32_t* targets = params.targets.as<int32_t>();
  const int64_t step = params.targets.stride[0];
  SPKV_RETURN_IF_ERROR(check_targets(targets, step, tokens, vocabulary));
  for_rows(execution, tokens, vocabulary * 4, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      const int32_t target = targets[t * step];
      const float* row = logits.as<const float>() + t * logits.stride[0];
      out.as<float>()[t * out.stride[0]] =
          target < 0 ? 0.0f : static_cast<float>(log_probability(row, vocabulary, target));
    }
  });
  return Status();
}

SPKV_ISA_END
