#include "ops/log_probabilities.h"

#include "binding/call.h"
#include "binding/exports.h"

namespace spkv {
namespace binding {

// logProbabilities(out, logits, targets)
Napi::Value log_probabilities(const Napi::CallbackInfo& info) {
  Call call(info, "logProbabilities");
  LogProbabilitiesParams params;
  params.out = call.output("out", kF32, "T");
  params.logits = call.tensor("logits", kF32, "T V");
  params.targets = call.tensor("targets", kI32, "T");
  call.enqueue(params, &Operations::log_probabilities);
  return info.Env().Undefined();
}

}  // namespace binding
}  // namespace spkv
