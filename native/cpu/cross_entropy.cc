#include "ops/cross_entropy.h"

#include "core/step_checks.h"
#include "cpu/logits.h"
#include "cpu/rows.h"
#include "cpu/simd.h"

SPKV_ISA_BEGIN
namespace {

// The exponentials take the place of the logits, then are scaled.
float forward_backward(float* row, int64_t n, int32_t target, float factor) {
  if (target < 0) {
    memset(row, 0, static_cast<size_t>(n) * sizeof(float));
    return 0;
  }
  const float largest = find_peak(row, n).value, own = row[target];
  const double total =
      sum_exponentials(row, n, largest, [&](int64_t i, vf e, auto lanes) { write(row + i, e, lanes); });
  const vf scale = splat(static_cast<float>(factor / total));
  for_lanes(n, [&](int64_t i, auto lanes) { write(row + i, read(row + i, lanes) * scale, lanes); });
  row[target] -= factor;
  return static_cast<float>(__builtin_log(total) + largest - static_cast<double>(own));
}

}  // namespace

Status cross_entropy(const CrossEntropyParams& params, Execution& execution) {
  const View &losses = params.losses, &logits = params.logits;
  const int64_t tokens = logits.shape[0], vocabulary = logits.shape[1];
  const int32_t* targets = params.targets.as<int32_t>();
  const int64_t step = params.targets.stride[0];
  SPKV_RETURN_IF_ERROR(check_targets(targets, step, tokens, vocabulary));
  for_rows(execution, tokens, vocabulary * 5, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      losses.as<float>()[t * losses.stride[0]] = forward_backward(
          logits.as<float>() + t * logits.stride[0], vocabulary, targets[t * step], params.factor);
    }
  });
  return Status();
}

SPKV_ISA_END
