#include "ops/predict_utility.h"

#include "binding/call.h"
#include "binding/exports.h"

namespace spkv {
namespace binding {

// predictUtility(out, hidden, weight, bias, log)
Napi::Value predict_utility(const Napi::CallbackInfo& info) {
  Call call(info, "predictUtility");
  PredictUtilityParams params;
  params.out = call.output("out", kF32, "T G");
  params.hidden = call.tensor("hidden", kF32, "T P");
  params.weight = call.tensor("weight", kF32 | kBF16, "G P");
  params.bias = call.tensor("bias", kF32 | kBF16, "G");
  params.log = call.boolean("log");
  call.enqueue(params, &Operations::predict_utility);
  return info.Env().Undefined();
}

}  // namespace binding
}  // namespace spkv
