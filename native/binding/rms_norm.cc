#include "ops/rms_norm.h"

#include "binding/call.h"
#include "binding/exports.h"

namespace spkv {
namespace binding {

// rmsNorm(out, x, weight, epsilon)
Napi::Value rms_norm(const Napi::CallbackInfo& info) {
  Call call(info, "rmsNorm");
  RmsNormParams params;
  bool heads = call.rank(0) == 3;
  params.out = call.output("out", kActivation, heads ? "T H D" : "T C");
  params.x = call.tensor("x", kF32, heads ? "T H D" : "T C");
  params.weight = call.tensor("weight", kF32 | kBF16, heads ? "D" : "C");
  params.epsilon = static_cast<float>(call.number("epsilon"));
  call.check(params.epsilon >= 0, Code::kInvalidArgument, "Expected at least 0 for epsilon");
  call.enqueue(params, &Operations::rms_norm);
  return info.Env().Undefined();
}

}  // namespace binding
}  // namespace spkv
