#include "ops/prepare_pairs.h"

#include "binding/call.h"
#include "binding/exports.h"

namespace spkv {
namespace binding {

// preparePairs(q, keys, values, utilities | null, qkv, angles, qNorm | null, kNorm | null, epsilon,
//              weight | null, bias | null, log)
Napi::Value prepare_pairs(const Napi::CallbackInfo& info) {
  Call call(info, "preparePairs");
  PreparePairsParams params;
  params.q = call.output("q", kF32, "T H D");
  params.keys = call.output("keys", kF32, "T G D");
  params.values = call.output("values", kF32, "T G D");
  params.utilities = call.optional_output("utilities", kF32, "T G");
  params.qkv = call.tensor("qkv", kF32, "T N");
  params.angles = call.tensor("angles", kF32, "T D");
  params.q_norm = call.optional_tensor("qNorm", kF32 | kBF16, "D");
  params.k_norm = call.optional_tensor("kNorm", kF32 | kBF16, "D");
  params.epsilon = static_cast<float>(call.number("epsilon"));
  params.weight = call.optional_tensor("weight", kF32 | kBF16, "G P");
  params.bias = call.optional_tensor("bias", kF32 | kBF16, "G");
  params.log = call.boolean("log");
  call.check(params.epsilon >= 0, Code::kInvalidArgument, "Expected at least 0 for epsilon");
  call.check(call.dimension('D') % 2 == 0, Code::kShape, "Expected an even head size");
  const bool predicts = static_cast<bool>(params.utilities);
  call.check(static_cast<bool>(params.weight) == predicts && static_cast<bool>(params.bias) == predicts,
             Code::kInvalidArgument, "Expected utilities, weight and bias together, or none of them");
  int64_t columns =
      (call.dimension('H') + 2 * call.dimension('G')) * call.dimension('D') + call.dimension('P');
  call.bind('N', columns, "H D + 2 G D + P");
  call.enqueue(params, &Operations::prepare_pairs);
  return info.Env().Undefined();
}

}  // namespace binding
}  // namespace spkv
