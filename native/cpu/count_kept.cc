#include "ops/count_kept.h"

#include "core/step_checks.h"
#include "cpu/rows.h"

SPKV_ISA_BEGIN

Status count_kept(const CountKeptParams& params, Execution& execution) {
  const View &counts = params.counts, &utilities = params.utilities;
  SPKV_RETURN_IF_ERROR(
      check_offsets(params.offsets.as<int32_t>(), params.offsets.shape[0] - 1, utilities.shape[0]));
  const int32_t* offsets = params.offsets.as<int32_t>();
  const int64_t thresholds = counts.shape[1];
  parallel(execution, counts.shape[0], [&](int64_t g, int) {
    int32_t* row = counts.as<int32_t>() + g * counts.stride[0];
    for (int64_t b = 0; b + 1 < params.offsets.shape[0]; b++) {
      for (int64_t s = offsets[b]; s + params.window < offsets[b + 1]; s++) {
        const float u = utilities.as<float>()[s * utilities.stride[0] + g];
        for (int64_t n = 0; n < thresholds; n++) row[n] += u >= params.thresholds.as<float>()[n];
      }
    }
  });
  return Status();
}

SPKV_ISA_END
