#include "ops/predict_utility.h"

#include "binding/call.h"
#include "binding/exports.h"

namespace spkv {
namespace binding {

static float share(Call& call, const char* name) {
  const double value = call.number(name);
  call.check(value >= 0 && value <= 1, Code::kInvalidArgument,
             std::string("Expected a number from 0 to 1 for ") + name);
  return static_cast<float>(value);
}

// predictUtility(out, hidden, weight, bias, form, alpha, threshold)
Napi::Value predict_utility(const Napi::CallbackInfo& info) {
  Call call(info, "predictUtility");
  PredictUtilityParams params;
  params.out = call.output("out", kF32, "T G");
  params.hidden = call.activation("hidden", "T P");
  params.weight = call.tensor("weight", kF32 | kBF16, "G P");
  params.bias = call.tensor("bias", kF32 | kBF16, "G");
  params.form = static_cast<UtilityForm>(call.integer("form", 0, 2));
  params.alpha = share(call, "alpha");
  params.threshold = share(call, "threshold");
  call.enqueue(params, &Operations::predict_utility);
  return info.Env().Undefined();
}

// predictUtilityBackward(dHidden, dWeight, dBias, dLogUtility, hidden, weight, bias)
Napi::Value predict_utility_backward(const Napi::CallbackInfo& info) {
  Call call(info, "predictUtilityBackward");
  PredictUtilityBackwardParams params;
  params.d_hidden = call.activation_output("dHidden", "T P");
  params.d_weight = call.output("dWeight", kF32, "G P");
  params.d_bias = call.output("dBias", kF32, "G");
  params.d_log_utility = call.tensor("dLogUtility", kF32, "T G");
  params.hidden = call.tensor("hidden", type_of(params.d_hidden), "T P");
  params.weight = call.tensor("weight", kF32 | kBF16, "G P");
  params.bias = call.tensor("bias", kF32 | kBF16, "G");
  call.enqueue(params, &Operations::predict_utility_backward);
  return info.Env().Undefined();
}

}  // namespace binding
}  // namespace spkv
