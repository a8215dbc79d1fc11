#include "ops/cross_entropy.h"

#include "binding/call.h"
#include "binding/exports.h"

namespace spkv {
namespace binding {

// crossEntropy(losses, logits, targets, factor)
Napi::Value cross_entropy(const Napi::CallbackInfo& info) {
  Call call(info, "crossEntropy");
  CrossEntropyParams params;
  params.losses = call.output("losses", kF32, "T");
  params.logits = call.activation_output("logits", "T V");
  params.targets = call.tensor("targets", kI32, "T");
  params.factor = static_cast<float>(call.number("factor"));
  call.enqueue(params, &Operations::cross_entropy);
  return info.Env().Undefined();
}

}  // namespace binding
}  // namespace spkv
