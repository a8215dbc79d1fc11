#include "ops/optimizer.h"

#include "binding/call.h"
#include "binding/exports.h"

namespace spkv {
namespace binding {

static double at_least(Call& call, const char* name, double min) {
  const double value = call.number(name);
  call.check(value >= min, Code::kInvalidArgument,
             std::string("Expected at least ") + std::to_string(static_cast<int>(min)) + " for " + name);
  return value;
}

static float decay_rate(Call& call, const char* name) {
  const double value = call.number(name);
  call.check(value >= 0 && value < 1, Code::kInvalidArgument,
             std::string("Expected a number from 0 to below 1 for ") + name);
  return static_cast<float>(value);
}

// Rows are layers; a grid has no more.
constexpr int64_t kMostRows = 65535;

// adamW(parameter, momentum, variance, copy | null, gradient, factor, learningRate, beta1, beta2, epsilon,
// weightDecay, step)
Napi::Value adam_w(const Napi::CallbackInfo& info) {
  Call call(info, "adamW");
  AdamWParams params;
  params.parameter = call.output("parameter", kF32, "R N");
  params.momentum = call.output("momentum", kF32, "R N");
  params.variance = call.output("variance", kF32, "R N");
  params.copy = call.optional_output("copy", kBF16, "R N");
  params.gradient = call.tensor("gradient", kF32, "R N");
  params.factor = call.tensor("factor", kF32, "1");
  call.check(params.factor.shape[0] == 1, Code::kShape, "Expected one element for factor");
  call.check(call.dimension('R') <= kMostRows, Code::kShape, "Expected at most 65535 rows");
  params.learning_rate = static_cast<float>(at_least(call, "learningRate", 0));
  params.beta1 = decay_rate(call, "beta1");
  params.beta2 = decay_rate(call, "beta2");
  params.epsilon = static_cast<float>(at_least(call, "epsilon", 0));
  params.weight_decay = static_cast<float>(at_least(call, "weightDecay", 0));
  params.step = call.integer("step", 1, INT32_MAX);
  call.enqueue(params, &Operations::adam_w);
  return info.Env().Undefined();
}

// squaredNorm(out, x)
Napi::Value squared_norm(const Napi::CallbackInfo& info) {
  Call call(info, "squaredNorm");
  SquaredNormParams params;
  params.out = call.output("out", kF32, "R");
  params.x = call.tensor("x", kF32, "R N");
  call.check(call.dimension('R') <= kMostRows, Code::kShape, "Expected at most 65535 rows");
  call.enqueue(params, &Operations::squared_norm);
  return info.Env().Undefined();
}

// clipFactor(factor, norm, squaredNorms, scale, limit)
Napi::Value clip_factor(const Napi::CallbackInfo& info) {
  Call call(info, "clipFactor");
  ClipFactorParams params;
  params.factor = call.output("factor", kF32, "1");
  params.norm = call.output("norm", kF32, "1");
  params.squared_norms = call.tensor("squaredNorms", kF32, "N");
  call.check(params.factor.shape[0] == 1, Code::kShape, "Expected one element for factor and norm");
  params.scale = static_cast<float>(call.number("scale"));
  const double limit = call.number("limit");
  call.check(params.scale > 0, Code::kInvalidArgument, "Expected a number above 0 for scale");
  call.check(limit > 0, Code::kInvalidArgument, "Expected a number above 0 for limit");
  params.limit = static_cast<float>(limit);
  call.enqueue(params, &Operations::clip_factor);
  return info.Env().Undefined();
}

}  // namespace binding
}  // namespace spkv
