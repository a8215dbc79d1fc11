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
  params.out = call.activation_output("out", heads ? "T H D" : "T C");
  params.x = call.activation("x", heads ? "T H D" : "T C");
  params.weight = call.tensor("weight", kF32 | kBF16, heads ? "D" : "C");
  params.epsilon = static_cast<float>(call.number("epsilon"));
  call.check(params.epsilon >= 0, Code::kInvalidArgument, "Expected at least 0 for epsilon");
  call.in_place("out", "x");
  call.enqueue(params, &Operations::rms_norm);
  return info.Env().Undefined();
}

// rmsNormBackward(dx, dWeight, dy, x, weight, epsilon, accumulate, copy | null)
Napi::Value rms_norm_backward(const Napi::CallbackInfo& info) {
  Call call(info, "rmsNormBackward");
  RmsNormBackwardParams params;
  const bool heads = call.rank(0) == 3;
  const char *rows = heads ? "T H D" : "T C", *columns = heads ? "D" : "C";
  params.dx = call.activation_output("dx", rows);
  params.d_weight = call.output("dWeight", kF32, columns);
  params.dy = call.activation("dy", rows);
  params.x = call.activation("x", rows);
  params.weight = call.tensor("weight", kF32 | kBF16, columns);
  params.epsilon = static_cast<float>(call.number("epsilon"));
  params.accumulate = call.boolean("accumulate");
  params.copy = call.optional_output("copy", kBF16, rows);
  call.check(params.epsilon >= 0, Code::kInvalidArgument, "Expected at least 0 for epsilon");
  call.in_place("dx", "dy");
  call.enqueue(params, &Operations::rms_norm_backward);
  return info.Env().Undefined();
}

}  // namespace binding
}  // namespace spkv
