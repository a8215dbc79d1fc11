#include "ops/gated_attention.h"

#include "binding/call.h"
#include "binding/exports.h"

namespace spkv {
namespace binding {

// gatedAttention(out, q, keys, values, gates | null, offsets, window, scale)
Napi::Value gated_attention(const Napi::CallbackInfo& info) {
  Call call(info, "gatedAttention");
  GatedAttentionParams params;
  params.out = call.output("out", kActivation, "T H D");
  params.q = call.tensor("q", kF32, "T H D");
  params.keys = call.tensor("keys", kF32, "T G D");
  params.values = call.tensor("values", kF32, "T G D");
  params.gates = call.optional_tensor("gates", kF32, "T G");
  params.offsets = call.tensor("offsets", kI32, "O");
  params.window = call.integer("window", 1, INT32_MAX);
  params.scale = static_cast<float>(call.number("scale"));
  call.check(call.dimension('O') >= 2, Code::kShape, "Expected at least two offsets");
  call.check(call.dimension('G') > 0 && call.dimension('H') % call.dimension('G') == 0, Code::kShape,
             "Expected the query heads H of q to be a multiple of the KV heads G of keys");
  call.check(call.dimension('D') % 2 == 0 && call.dimension('D') <= 256, Code::kShape,
             "Expected an even head size of at most 256");
  call.distinct(params.out, "out", params.q, "q");
  call.distinct(params.out, "out", params.keys, "keys");
  call.distinct(params.out, "out", params.values, "values");
  call.distinct(params.out, "out", params.gates, "gates");
  call.enqueue(params, &Operations::gated_attention);
  return info.Env().Undefined();
}

}  // namespace binding
}  // namespace spkv
