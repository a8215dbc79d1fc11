#include "ops/count_kept.h"

#include "binding/call.h"
#include "binding/exports.h"

namespace spkv {
namespace binding {

// countKept(counts, utilities, thresholds, offsets, window)
Napi::Value count_kept(const Napi::CallbackInfo& info) {
  Call call(info, "countKept");
  CountKeptParams params;
  params.counts = call.output("counts", kI32, "G N");
  params.utilities = call.tensor("utilities", kF32, "T G");
  params.thresholds = call.tensor("thresholds", kF32, "N");
  params.offsets = call.tensor("offsets", kI32, "O");
  params.window = call.integer("window", 1, INT32_MAX);
  call.check(call.dimension('O') >= 2, Code::kShape, "Expected at least two offsets");
  call.enqueue(params, &Operations::count_kept);
  return info.Env().Undefined();
}

}  // namespace binding
}  // namespace spkv
